"""Errors that a user of ``engines`` can mend.

EngineError
├── EngineUnavailableError  the engine's package or its GPU is missing on this machine
└── BuildError              the engine refused the network or the options
"""

TENSORRT_EXTRA = 'pip install "zscgan-convert[tensorrt]"'
RTX_EXTRA = 'pip install "zscgan-convert[rtx]"'


class EngineError(Exception):
    """Base of every error that ``engines`` raises on purpose."""


class EngineUnavailableError(EngineError):
    """The engine was asked for by name and can't be had here."""


class BuildError(EngineError):
    """The engine could not be built or run from this model."""


def first_line(error: BaseException, longest: int = 300) -> str:
    """The first line of an error's text without its full stop, or the error's type where it says nothing.

    Libraries quote what they can't read, so it is cut off behind ``longest`` characters.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return f"{lines[0][:longest]}…" if len(lines[0]) > longest else lines[0].rstrip(".;:")
