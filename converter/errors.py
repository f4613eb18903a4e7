"""Errors that a user of ``converter`` can fix.

ConversionError             exit code 1
├── LoadError               MODEL can't be read as a network of one image input
│   └── ArchitectureError   the weights and the architecture don't fit, or none was found
├── CaptureError            torch.export or the ONNX exporter refused the network
│   └── UnsupportedOperatorError   the ONNX graph has operators that a twin doesn't
├── QATError                the network can't be fine-tuned
├── DecodeError             the user's function for boxes is absent, raises, or returns something else
└── OutputError             the output folder, or a file beside it, can't be written
OptionsError                exit code 2: options that contradict one another
"""

from zscgan_common.errors import ZSCGANError


class ConversionError(ZSCGANError):
    """Base of every error that ends a conversion with exit code 1."""


class LoadError(ConversionError):
    """MODEL can't be read as a network of one image input."""


class ArchitectureError(LoadError):
    """The weights fit no architecture, several, or not the one that was asked for."""


class CaptureError(ConversionError):
    """The network can't be captured as a graph or written as ONNX."""


class UnsupportedOperatorError(CaptureError):
    """The ONNX graph has operators that can't be run in PyTorch."""


class QATError(ConversionError):
    """The network can't be fine-tuned with fake quantizers."""


class DecodeError(ConversionError):
    """The user's function that decodes boxes is absent, raises, or returns something else."""


class OutputError(ConversionError):
    """The output folder, or another file of the conversion, can't be written."""


class OptionsError(ZSCGANError):
    """Options that are wrong by themselves or together; exit code 2."""
