"""Errors that a user of ``engines`` can fix.

EngineError
├── EngineUnavailableError  the engine's package or its GPU is missing on this machine
└── BuildError              the engine refused the network or the options
"""

from zscgan_common.errors import ZSCGANError

TENSORRT_EXTRA = 'pip install "zscgan-convert[tensorrt]"'
PYCUDA_EXTRA = 'pip install "zscgan-convert[pycuda]"'
RTX_EXTRA = 'pip install "zscgan-convert[rtx]"'


class EngineError(ZSCGANError):
    """Base of every error that ``engines`` raises on purpose."""


class EngineUnavailableError(EngineError):
    """The engine was asked for by name and is not available here."""


class BuildError(EngineError):
    """The engine could not be built or run from this model."""
