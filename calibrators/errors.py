"""Errors that a user of ``calibrators`` can mend.

CalibrationError
├── DataError       real images that can't be read or have no labels
├── CacheError      a calibration cache that is broken or belongs to another model
└── GeneratorError  a generator that can't be trained, or belongs to another model
"""


class CalibrationError(Exception):
    """Base of every error that ``calibrators`` raises on purpose."""


class DataError(CalibrationError):
    """Real images or labels that can't be used."""


class CacheError(CalibrationError):
    """A calibration cache or ``calibration.json`` that can't be used."""


class GeneratorError(CalibrationError):
    """A generator that can't be trained, loaded or reused."""


def first_line(error: BaseException, longest: int = 300) -> str:
    """The first line of an error's text without its full stop, or the error's type where it says nothing.

    Libraries quote what they can't read, so it is cut off behind ``longest`` characters.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return f"{lines[0][:longest]}…" if len(lines[0]) > longest else lines[0].rstrip(".;:")
