"""Reading ONNX files, with an error that says what is wrong."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from engines.errors import BuildError
from engines.files import existing_file


def load_onnx(path: Path) -> onnx.ModelProto:
    """The model of ``path``, with the weights that are stored beside it. Raises BuildError."""
    try:
        return onnx.load(existing_file(path))
    except (DecodeError, onnx.checker.ValidationError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BuildError(f"expected an ONNX network, but {path} is none: {reason}") from error
    except OSError as error:
        raise BuildError(f"expected to read {path}: {error.strerror}") from error
