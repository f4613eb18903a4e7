"""zscgan-convert: a vision network of PyTorch or ONNX in, an INT8 engine out, without any data.

``from converter import convert`` is the whole conversion; ``docs/python-api.md`` describes it. What ``__all__``
names is public and stays; everything else may change.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from converter.version import __version__

_PLACES = {
    "CalibrationError": "calibrators.errors",
    "Conversion": "converter.api",
    "ConversionError": "converter.errors",
    "EngineError": "engines.errors",
    "OptionsError": "converter.errors",
    "WarningMessage": "zscgan_common.warning_message",
    "ZSCGANError": "zscgan_common.errors",
    "convert": "converter.api",
}

if TYPE_CHECKING:
    from calibrators.errors import CalibrationError
    from converter.api import Conversion, convert
    from converter.errors import ConversionError, OptionsError
    from engines.errors import EngineError
    from zscgan_common.errors import ZSCGANError
    from zscgan_common.warning_message import WarningMessage
else:

    def __getattr__(name: str) -> Any:
        """A public name, imported when it is asked for: every command imports this package first."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_PLACES[name]), name)


__all__ = [
    "CalibrationError",
    "Conversion",
    "ConversionError",
    "EngineError",
    "OptionsError",
    "WarningMessage",
    "ZSCGANError",
    "__version__",
    "convert",
]
