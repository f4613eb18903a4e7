"""Reading ONNX files, with an error that says what is wrong."""

from pathlib import Path

import onnx

from engines.errors import BuildError, first_line
from engines.files import existing_file


def load_onnx(path: Path) -> onnx.ModelProto:
    """The model of ``path``, with the weights that are stored beside it, checked. Raises BuildError."""
    existing_file(path)
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError as error:
        raise BuildError(f"expected to read {path}: {error.strerror or error}") from error
    except Exception as error:  # of protobuf and ONNX, which have no common base
        raise BuildError(f"expected an ONNX network, but {path} is none: {first_line(error)}") from error
    return model
