"""What a network does to its pixels before its first layer, and which pixels it expects for that.

A network that normalises its own input takes pixels as they are, of 0 to 1 or of 0 to 255. Which of the two is told by
the constants: ``(x - mean) / std`` with a mean and a deviation that only bytes have is for bytes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from jaxtyping import Float
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from converter.graph.twin.host import host_slice

Array = NDArray[np.float64]

_ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
_BN_MEAN, _BN_VARIANCE = 3, 4
"""Inputs of BatchNormalization."""
_UNIT_DIVISOR, _UNIT_DEVIATION = 1.001, 0.5
"""The largest number by which pixels in [0, 1] are divided, 1 for none at all, and the largest deviation they have."""
_BYTES, _LARGEST_OF_BYTES = 2.0, 256.0
"""A mean above this, or a deviation of ten times as much, is one of bytes, unless it is larger than any of them."""
_ROUNDING = 1e-3


def white_pixel(model: onnx.ModelProto) -> float | None:
    """The value of a white pixel, 1 or 255, of a network that normalises its own input; black is 0.

    ``model`` has its constants folded. None where it doesn't normalise its input, or not as one does with pixels of
    either kind.
    """
    steps = list(_steps(model))
    if not steps:
        return None
    constants = _constants(model)
    if any(step.op_type in _ARITHMETIC for step in steps):
        return _white(*_statistics(steps, constants, model), _UNIT_DIVISOR)
    norm = next((step for step in steps if step.op_type == "BatchNormalization"), None)
    if norm is None:
        return None
    mean, variance = (constants[norm.input[place]] for place in (_BN_MEAN, _BN_VARIANCE))
    return _white(mean, np.sqrt(np.maximum(variance, 0)), _UNIT_DEVIATION)


def normalised_values(model: onnx.ModelProto) -> tuple[str, ...]:
    """Names of the values that are pixels normalised by the graph: none is beyond those of a black and a white one."""
    return tuple(step.output[0] for step in _steps(model))


def _constants(model: onnx.ModelProto) -> dict[str, Array]:
    return {
        tensor.name: numpy_helper.to_array(tensor).astype(np.float64)
        for tensor in model.graph.initializer
        if tensor.data_type in (TensorProto.FLOAT, TensorProto.INT64)
    }


def _steps(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """The nodes behind the image that scale, shift or reorder each pixel by constants, one after the other."""
    constants = {tensor.name for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    (value,) = (item.name for item in model.graph.input if item.name not in constants)
    while value not in outputs:
        readers = [node for node in model.graph.node if value in node.input and node.op_type != "Shape"]
        if len(readers) != 1 or not _is_step(readers[0], value, constants):
            return
        yield readers[0]
        value = readers[0].output[0]


def _is_step(node: onnx.NodeProto, value: str, constants: set[str]) -> bool:
    if node.domain not in ("", "ai.onnx") or any(
        name not in constants for name in node.input if name != value
    ):
        return False
    attributes: dict[str, Any] = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type in _ARITHMETIC:
        return list(node.input).count(value) == 1 and (node.op_type != "Div" or node.input[0] == value)
    if node.op_type == "Cast":
        return bool(attributes["to"] == TensorProto.FLOAT)
    if node.op_type == "Gather":  # BGR of RGB, as is a Slice backwards
        return bool(attributes.get("axis", 0) == 1 and node.input[0] == value)
    return node.op_type in ("BatchNormalization", "Identity", "Slice") and node.input[0] == value


def _statistics(
    steps: list[onnx.NodeProto], constants: dict[str, Array], model: onnx.ModelProto
) -> tuple[Array, Array]:
    """Mean and deviation by which the arithmetic among ``steps`` normalises: ``(x - mean) / deviation``."""
    weights = {tensor.name for tensor in model.graph.initializer}
    (image,) = (item for item in model.graph.input if item.name not in weights)
    channels = max(1, image.type.tensor_type.shape.dim[1].dim_value)
    probe = np.stack([np.full((channels, 1, 1), float(pixel)) for pixel in (0, 1)])
    for step in steps:
        probe = _after(step, probe, constants)
    shift, factor = probe[0], probe[1] - probe[0]
    with np.errstate(divide="ignore", invalid="ignore"):  # of a factor of 0, which _white refuses
        return -shift / factor, 1 / factor


def _after(
    step: onnx.NodeProto, probe: Float[np.ndarray, "2 _ _ _"], constants: dict[str, Array]
) -> Float[np.ndarray, "2 _ _ _"]:
    if step.op_type in _ARITHMETIC:
        first, second = (constants.get(name, probe) for name in step.input)
        return np.asarray(_ARITHMETIC[step.op_type](first, second))
    if step.op_type == "Gather":
        return np.take(probe, constants[step.input[1]].astype(int), 1)
    if step.op_type == "Slice":
        return np.asarray(
            host_slice(probe, *(constants[name].astype(int) for name in step.input[1:] if name))
        )
    return probe


def _white(mean: Array, deviation: Array, largest: float) -> float | None:
    """The kind of pixels that have this mean and deviation, which is at most ``largest`` for those in [0, 1]."""
    if (
        not (np.isfinite(mean) & np.isfinite(deviation)).all()
        or deviation.min() <= 0
        or mean.min() < -_ROUNDING
    ):
        return None
    if deviation.max() <= largest and mean.max() <= 1 + _ROUNDING:
        return 1.0
    of_bytes = mean.max() > _BYTES or deviation.max() > 10 * _BYTES
    return 255.0 if of_bytes and max(mean.max(), deviation.max()) <= _LARGEST_OF_BYTES else None
