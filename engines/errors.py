"""Errors that a user of ``engines`` can mend.

EngineError
├── EngineUnavailableError  the engine's package or its GPU is missing on this machine
└── BuildError              the engine refused the network or the options
"""

TENSORRT_EXTRA = 'pip install "zscgan-convert[tensorrt]"'
PYCUDA_EXTRA = 'pip install "zscgan-convert[pycuda]"'
RTX_EXTRA = 'pip install "zscgan-convert[rtx]"'


class EngineError(Exception):
    """Base of every error that ``engines`` raises on purpose."""


class EngineUnavailableError(EngineError):
    """The engine was asked for by name and can't be had here."""


class BuildError(EngineError):
    """The engine could not be built or run from this model."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text without its full stop, or the error's type where it says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[0].rstrip(".;:")) if lines else type(error).__name__


def shortened(text: str, longest: int = 300) -> str:
    """``text`` of a file on one line of a terminal: cut off, and escaped where it isn't printable."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:longest])
    return f"{shown}…" if len(text) > longest else shown
