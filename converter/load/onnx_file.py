"""An ONNX file as a classifier: the user's own graph, and its twin in PyTorch with live batch norms."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from torch import fx

from calibrators.data.batches import random_pixels
from calibrators.data.input_spec import InputSpec
from converter.errors import CaptureError, LoadError
from converter.graph.capture import BATCH, SAME
from converter.graph.simplify import prepare
from converter.graph.twin import twin_from_onnx
from engines.errors import BuildError
from engines.onnx_passes.file import load_onnx, nodes
from engines.onnxruntime.engine import OnnxRuntimeEngine
from zscgan_common.text import cut, first_line

OLDEST_OPSET = 13
"""Where DequantizeLinear got one scale a channel."""
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")


@dataclass(frozen=True)
class OnnxSource:
    """``model`` for batches of any size, in float32, with its constants folded, and its twin.

    ``sizes`` are channels, height and width, -1 where the file leaves one open. ``original`` is the file's network in
    float32, for batches of ``batch`` images. ``notes`` say what was changed.
    """

    model: onnx.ModelProto
    module: fx.GraphModule
    sizes: tuple[int, ...]
    original: onnx.ModelProto
    batch: int
    notes: tuple[str, ...] = ()


def source_from_onnx(path: Path) -> OnnxSource:
    """The network of an ONNX file.

    Raises LoadError for a file that is damaged, quantized already, or takes anything but one batch of images;
    UnsupportedOperatorError for an operator that the twin doesn't have.
    """
    try:
        model = load_onnx(path)
    except BuildError as error:
        raise LoadError(f"{error}; copy or export it again") from error
    quantized = next(filter(_is_quantized, nodes(model.graph)), None)
    if quantized is not None:
        raise LoadError(
            f"{path} is already quantized ({quantized.op_type}); expected the float model. To build an engine from it: "
            f"zscgan-build {path}"
        )
    notes = []
    if _halves(model):
        model = in_float32(model)
        notes.append("converted the FP16 weights to FP32")
    batch, *sizes = _image_sizes(model)
    free = with_free_batch(with_newer_opset(model, path))
    if batch > 0:
        notes.append(f"the file fixes its batch to {batch}; the converted network takes any")
    prepared = prepare(free)
    return OnnxSource(prepared, twin_from_onnx(prepared), tuple(sizes), model, max(1, batch), tuple(notes))


def require_same(source: OnnxSource, spec: InputSpec, path: Path) -> None:
    """Raise CaptureError unless the twin says of two batches together what ONNX Runtime says of each with the file."""
    x = random_pixels(spec, 2 * source.batch, 0)
    try:
        with torch.no_grad():
            ours = source.module(x)
    except (RuntimeError, ValueError, TypeError) as error:
        raise CaptureError(
            f"expected {path} to take any number of images, but it fails on {len(x)}: {first_line(error)}; "
            "export it with a dynamic batch"
        ) from error
    original = onnx.ModelProto()
    original.CopyFrom(source.original)
    for dim, size in zip(_image_input(original).type.tensor_type.shape.dim[1:], spec.shape, strict=True):
        dim.dim_value = size
    with TemporaryDirectory() as folder:
        onnx.save_model(original, Path(folder) / "original.onnx")
        with OnnxRuntimeEngine(Path(folder) / "original.onnx") as engine:
            theirs = np.concatenate([engine.run(part.contiguous().numpy()) for part in x.split(source.batch)])
    allowed = SAME * max(1.0, float(np.abs(theirs).max()))
    if ours.shape != theirs.shape or not np.abs(ours.numpy() - theirs).max() <= allowed:
        raise CaptureError(
            f"expected {path} to say the same of {len(x)} images together as of {source.batch} at a time, but it "
            "doesn't; export it with a dynamic batch"
        )


def _is_quantized(node: onnx.NodeProto) -> bool:
    return node.op_type in _QUANTIZED or node.op_type.startswith("QLinear")


def _image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The only input; raises LoadError where there are others, or several outputs."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    for kind, values in (("image input", inputs), ("output, the logits", model.graph.output)):
        if len(values) != 1:
            names = cut([value.name for value in values], 5) or "none"
            raise LoadError(
                f"expected a network with one {kind}, got {len(values)} ({names}); cut it out with "
                "onnx.utils.extract_model"
            )
    image: onnx.ValueInfoProto = inputs[0]
    return image


def _image_sizes(model: onnx.ModelProto) -> list[int]:
    """Batch, channels, height and width of the only input, -1 where open."""
    value = _image_input(model)
    tensor = value.type.tensor_type
    if tensor.elem_type != TensorProto.FLOAT or len(tensor.shape.dim) != 4:
        kind = TensorProto.DataType.Name(tensor.elem_type).lower()
        got = "x".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
        raise LoadError(
            f"expected a float input of batch x channels x height x width, got {value.name}: {kind} "
            f"{got or 'scalar'}; cut the network behind its preprocessing with onnx.utils.extract_model"
        )
    return [dim.dim_value if dim.dim_value > 0 else -1 for dim in tensor.shape.dim]


def with_newer_opset(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """``model``, raised to the opset that Q/DQ pairs need where it is older."""
    if any(item.domain in ("", "ai.onnx") and item.version >= OLDEST_OPSET for item in model.opset_import):
        return model
    try:
        return onnx.version_converter.convert_version(model, OLDEST_OPSET)
    except Exception as error:  # the converter is C++ and raises whatever an adapter says
        raise LoadError(
            f"expected {path} to be of opset {OLDEST_OPSET} or newer, or to be raised to it, but: {first_line(error)}; "
            "export it again with a newer opset"
        ) from error


def with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose inputs and outputs have a dynamic first axis; shapes in between are left to be inferred."""
    free = onnx.ModelProto()
    free.CopyFrom(model)
    weights = {tensor.name for tensor in free.graph.initializer}
    for value in [*free.graph.input, *free.graph.output]:
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and len(dims) > 0:
            dims[0].dim_param = BATCH
    del free.graph.value_info[:]
    return free


def _halves(model: onnx.ModelProto) -> bool:
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an FP16 model in float32."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for tensor in wide.graph.initializer:
        _widen(tensor)
    for value in [*wide.graph.input, *wide.graph.output, *wide.graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in nodes(wide.graph):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
    return wide


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
        )
