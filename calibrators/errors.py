"""Errors that a user of ``calibrators`` can fix.

CalibrationError
├── DataError       real images that can't be read or have no labels
├── CacheError      a calibration cache that is broken or belongs to another model
└── GeneratorError  a generator that can't be trained, or belongs to another model
"""

from zscgan_common.errors import ZSCGANError


class CalibrationError(ZSCGANError):
    """Base of every error that ``calibrators`` raises on purpose."""


class DataError(CalibrationError):
    """Real images or labels that can't be used."""


class CacheError(CalibrationError):
    """A calibration cache or ``calibration.json`` that can't be used."""


class GeneratorError(CalibrationError):
    """A generator that can't be trained, loaded or reused."""
