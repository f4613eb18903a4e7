"""Weights that an ONNX file keeps in other files beside it."""

import math
from collections.abc import Iterator
from pathlib import Path, PureWindowsPath

import onnx
from onnx import TensorProto
from onnx.external_data_helper import load_external_data_for_model

from engines.errors import BuildError
from zscgan_common.text import shortened

LARGEST_ONNX = 2**31 - 1
"""Bytes of a protobuf message, and so of an ONNX model in one piece."""

_BITS: dict[int, int] = {
    TensorProto.DOUBLE: 64,
    TensorProto.INT64: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.BOOL: 8,
}


def with_external_data(model: onnx.ModelProto, path: Path, tensors: Iterator[TensorProto]) -> onnx.ModelProto:
    """``model`` of ``path``, with the weights of other files in it; ``tensors`` are all of the model's.

    Raises BuildError where a file is missing, too short or outside of the model's folder, and where the whole is more
    than a model in one piece can hold: before anything is read.
    """
    outside = [tensor for tensor in tensors if tensor.data_location == TensorProto.EXTERNAL]
    for location in sorted({_location(tensor) for tensor in outside}):
        _require_file(location, path)
    total = model.ByteSize() + sum(map(_size, outside))
    if total > LARGEST_ONNX:
        raise too_large(path, total)
    load_external_data_for_model(model, str(path.parent))
    return model


def too_large(path: Path, size: int) -> BuildError:
    """The error for a network of ``size`` bytes, which is more than one ONNX file can hold."""
    return BuildError(
        f"expected a network of less than 2 GB, got {size / 1e9:.1f} GB in {path}, more than one ONNX file can hold; "
        "take a smaller one"
    )


def _location(tensor: TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _size(tensor: TensorProto) -> int:
    return math.prod(map(int, tensor.dims)) * _BITS.get(tensor.data_type, 32) // 8


def _require_file(location: str, path: Path) -> None:
    """Raise BuildError unless ``location`` is a file inside of the folder of ``path``."""
    place = PureWindowsPath(location)  # which knows both kinds of slashes
    shown = shortened(location)
    if not location or place.anchor or ".." in place.parts:
        raise BuildError(
            f"expected the weights of {path} in a file inside of its folder, got {shown or 'no name'}; save it again "
            "with onnx.save_model(..., save_as_external_data=True, location=a file name)"
        )
    if not (path.parent / location).is_file():
        raise BuildError(
            f"{path} keeps its weights in {shown}, but there is no file {shortened(str(path.parent / location))}; "
            "copy it beside the model under this name"
        )
