"""An ONNX file as a network: the user's own graph, and its twin in PyTorch with live batch norms."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from torch import Tensor, fx

from calibrators.data.batches import random_pixels
from calibrators.data.input_spec import InputSpec
from converter.errors import CaptureError, LoadError
from converter.graph.capture import BATCH, same
from converter.graph.free_batch import with_free_shapes
from converter.graph.one_by_one import image_by_image, takes_one_image
from converter.graph.outputs import tensors_of
from converter.graph.simplify import prepare
from converter.graph.tail import Tail, split_tail, up_to
from converter.graph.twin import output_names, twin_from_onnx
from converter.graph.unfused import take_fused_apart
from converter.load.unfit import refuse_unfit
from engines.errors import BuildError
from engines.onnx_passes.external_data import LARGEST_ONNX, too_large
from engines.onnx_passes.file import load_onnx, nodes
from engines.onnxruntime.engine import OnnxRuntimeEngine
from zscgan_common.text import cut, first_line

OLDEST_OPSET = 13
"""Where DequantizeLinear got one scale a channel."""


_CHANNELS = (1, 3, 4)
"""Of images."""


@dataclass(frozen=True)
class OnnxSource:
    """``model`` for batches of any size, or of 1, in float32, with its constants folded, and its twin for any size.

    ``sizes`` are channels, height and width, -1 where the file leaves one open. ``original`` is the file's network in
    float32, for batches of ``batch`` images. ``notes`` say what was changed, ``freed`` that a fixed batch was.
    ``fixed_at`` is the node that fixes the batch, where that could not be changed. ``reference`` answers in place
    of ``original`` where that was written from a network of PyTorch. ``model`` and ``module`` end before ``tail``.
    """

    model: onnx.ModelProto
    module: fx.GraphModule
    sizes: tuple[int, ...]
    original: onnx.ModelProto
    batch: int
    notes: tuple[str, ...] = ()
    freed: str | None = None
    fixed_at: str | None = None
    reference: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    tail: Tail | None = None


def source_from_onnx(path: Path) -> OnnxSource:
    """The network of an ONNX file.

    Raises LoadError for a file that is damaged, quantized already, or takes anything but one batch of images;
    UnsupportedOperatorError for an operator that the twin doesn't have.
    """
    try:
        model = load_onnx(path)
    except BuildError as error:
        raise LoadError(str(error)) from error
    return source_from_model(model, path)


def source_from_model(model: onnx.ModelProto, path: Path) -> OnnxSource:
    """The network ``model``, which was read from ``path`` or written from what is there; raises as source_from_onnx."""
    refuse_unfit(model, path)
    model = take_fused_apart(with_unique_names(model))
    notes: tuple[str, ...] = ()
    if _halves(model):
        model = in_float32(model)
        notes = ("converted the FP16 weights to FP32",)
        if (size := model.ByteSize()) > LARGEST_ONNX:
            raise LoadError(str(too_large(path, size)))
    batch, *sizes = _image_sizes(model)
    free, freed = with_free_batch(with_newer_opset(model, path)), None
    if batch > 0:
        freed = f"the file fixes its batch to {batch}; the converted network takes any"
    prepared, fixed_at = prepare(free, one_image=batch == 1), None
    prepared, tail = split_tail(prepared)
    twin = twin_from_onnx(prepared)
    inside = batch if batch > 0 or min(sizes) <= 0 else _batch_inside(twin, sizes)
    if inside > 0 and min(sizes) > 0:
        prepared, fixed_at = with_free_shapes(prepared, inside, sizes)
        twin = twin_from_onnx(prepared)
        if batch <= 0:
            freed = f"the file leaves its batch open but fixes it to {inside} inside; the converted network takes any"
    if tail is not None and freed is None:
        tail = tail.declared_as(model.graph.output)
    return OnnxSource(prepared, twin, tuple(sizes), model, max(1, inside), notes, freed, fixed_at, tail=tail)


def _batch_inside(twin: fx.GraphModule, sizes: Sequence[int]) -> int:
    """The batch that ``twin`` takes alone although its input leaves it open; 0 where it takes others or none.

    Tracing leaves that of a view whose sizes were numbers: those of the traced batch.
    """
    if _takes(twin, 2, sizes) and _takes(twin, 3, sizes):
        return 0
    return next((count for count in (1, 2, 4, 8, 16, 32) if _takes(twin, count, sizes)), 0)


@torch.no_grad()
def _takes(twin: fx.GraphModule, batch: int, sizes: Sequence[int]) -> bool:
    try:
        twin.forward(torch.zeros(batch, *sizes))
    except (RuntimeError, ValueError, IndexError, TypeError):
        return False
    return True


def checked_source(source: OnnxSource, spec: InputSpec, path: Path) -> OnnxSource:
    """``source``, whose twin says of any number of images what the original says of each.

    Where freeing a batch of 1 doesn't give that, it is the network as it was, for one image, with a twin that takes the
    images one by one. Raises CaptureError where neither does it.
    """
    try:
        require_same(source, spec, path)
    except CaptureError:
        if source.batch > 1 or source.freed is None:
            raise
        source = _one_by_one(source, spec, path)
        require_same(source, spec, path)
    return source


def _one_by_one(source: OnnxSource, spec: InputSpec, path: Path) -> OnnxSource:
    """``source`` for one image, whose twin takes any number of them, one by one where it has to."""
    model = with_free_batch(with_newer_opset(source.original, path))
    for dim, size in zip(_image_input(model).type.tensor_type.shape.dim, (1, *spec.shape), strict=True):
        dim.dim_value = size
    for value in model.graph.output:
        for first in value.type.tensor_type.shape.dim[:1]:
            first.dim_value = 1
    model, tail = split_tail(prepare(model, one_image=True))
    if tail is not None:
        tail = tail.declared_as(source.original.graph.output)
    twin = image_by_image(twin_from_onnx(model), random_pixels(spec, 1, 0))
    return replace(source, model=model, module=twin, freed=None, fixed_at=None, tail=tail)


def require_same(source: OnnxSource, spec: InputSpec, path: Path) -> None:
    """Raise CaptureError unless the twin says of two batches together what the original says of each."""
    count = 2 * source.batch
    # Of different brightness: what depends on the other images, such as a mean over all, then shows.
    x = random_pixels(spec, count, 0) * torch.linspace(1, 0.2, count).view(-1, 1, 1, 1)
    where = f": its batch is fixed at node {source.fixed_at}" if source.fixed_at else ""
    try:
        with torch.no_grad():
            ours = tensors_of(source.module.forward(x))  # called, a graph module prints what goes wrong in it
    except (RuntimeError, ValueError, TypeError) as error:
        raise CaptureError(
            f"expected {path} to take any number of images, but it fails on {count}"
            f"{where or f': {first_line(error)}'}; export it with a dynamic batch, or a batch of 1"
        ) from error
    theirs = _said_by_original(source, spec, x.split(source.batch), path)
    for name, one, other in zip(output_names(source.module), ours, theirs, strict=True):
        if one.shape[:1] != (count,):
            got = "x".join(map(str, one.shape)) or "a number"
            raise CaptureError(
                f"expected outputs of {path} with an entry for each image on the first axis, got {name} of {got} for "
                f"{count} images{where}; put what moves that axis (Transpose) or makes it (no Reshape to fixed sizes) "
                "into the network, and export it with a dynamic batch"
            )
        if not same(one.numpy(), other):
            raise CaptureError(
                f"expected {path} to say the same of {count} images together as of {source.batch} at a time, but its "
                f"output {name} doesn't{where}; export it with a dynamic batch, or a batch of 1"
            )
    if source.tail is not None and (source.freed or source.reference):
        _require_same_whole(source, source.tail, spec, x, path)


def _require_same_whole(source: OnnxSource, tail: Tail, spec: InputSpec, x: Tensor, path: Path) -> None:
    """Raise CaptureError unless the network with its ``tail`` says the same of ``x`` as the original of its parts."""
    expected = f"expected the end of {path} ({', '.join(tail.chosen_by)}) to say the same of "
    expected += f"{len(x)} images together as of {source.batch} at a time, but it "
    if tail.foreign:
        raise CaptureError(
            f"{expected}can't be run here; export the network with a dynamic batch, or a batch of 1"
        )
    try:
        whole, size = tail.attached_to(source.model), 1 if takes_one_image(source.model) else len(x)
        ours = _said_by_onnxruntime(_of_sizes(whole, spec), x.split(size), path)
        theirs = _said_by_whole(source, spec, x.split(source.batch), path)
        alike = all(same(one, other) for one, other in zip(ours, theirs, strict=True))
    except ValueError:  # parts that can't be joined
        alike = False
    if not alike:
        raise CaptureError(f"{expected}doesn't; export the network with a dynamic batch, or a batch of 1")


def _said_by_original(
    source: OnnxSource, spec: InputSpec, parts: Sequence[Tensor], path: Path
) -> list[NDArray[Any]]:
    """The outputs that ``source`` has before its tail, of all ``parts`` together. Raises CaptureError."""
    if source.tail is None:
        return _said_by_whole(source, spec, parts, path)
    original, names = source.original, source.tail.head_outputs
    if not {name for node in original.graph.node for name in node.output}.issuperset(names):
        original, _ = split_tail(prepare(with_newer_opset(original, path), one_image=source.batch == 1))
    return _said_by_onnxruntime(_of_sizes(up_to(original, names), spec), parts, path)


def _said_by_whole(
    source: OnnxSource, spec: InputSpec, parts: Sequence[Tensor], path: Path
) -> list[NDArray[Any]]:
    """The outputs of what ``source`` was made from, of all ``parts`` together. Raises CaptureError."""
    if source.reference is None:
        return _said_by_onnxruntime(_of_sizes(source.original, spec), parts, path)
    with torch.no_grad():
        answers = [source.reference(part) for part in parts]
    return [torch.cat(some).numpy() for some in zip(*answers, strict=True)]


def _of_sizes(model: onnx.ModelProto, spec: InputSpec) -> onnx.ModelProto:
    """A copy whose input is as large as ``spec`` says."""
    sized = onnx.ModelProto()
    sized.CopyFrom(model)
    first, *others = _image_input(sized).type.tensor_type.shape.dim
    if first.dim_value <= 0:
        first.dim_param = BATCH
    for dim, size in zip(others, spec.shape, strict=True):
        dim.dim_value = size
    return sized


def _said_by_onnxruntime(model: onnx.ModelProto, parts: Sequence[Tensor], path: Path) -> list[NDArray[Any]]:
    """The outputs of ``model``, which is that of ``path``, of all ``parts`` together. Raises CaptureError."""
    with TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        onnx.save_model(model, copy)
        try:
            with OnnxRuntimeEngine(copy) as engine:
                answers = [tuple(engine.infer(part.contiguous().numpy()).values()) for part in parts]
                return [np.concatenate(some) for some in zip(*answers, strict=True)]
        except BuildError as error:
            raise CaptureError(str(error).replace(str(copy), str(path))) from error


def _image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The only input; raises LoadError where there are others, or no output."""
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = cut([value.name for value in inputs], 5) or "none"
        raise LoadError(
            f"expected a network with one image input, got {len(inputs)} ({names}); cut it out with "
            "onnx.utils.extract_model"
        )
    if not model.graph.output:
        raise LoadError("expected a network with an output, got none; export it again")
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
    sizes = [dim.dim_value if dim.dim_value > 0 else -1 for dim in tensor.shape.dim]
    if (
        sizes[3] in _CHANNELS
        and sizes[1] not in _CHANNELS
        and (sizes[1] > 0 or _is_transposed(model, value.name))
    ):
        raise LoadError(
            f"expected an input of batch x channels x height x width, got {value.name} with its {sizes[3]} channels "
            f"last; export it with the channels first (tf2onnx: --inputs-as-nchw {value.name}), or cut the network "
            "behind its Transpose with onnx.utils.extract_model"
        )
    return sizes


def _is_transposed(model: onnx.ModelProto, name: str) -> bool:
    return any(node.op_type == "Transpose" and name in node.input for node in model.graph.node)


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


def with_unique_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, in which of several nodes of one name only the first keeps it, as ONNX Runtime demands."""
    uses = Counter(node.name for node in nodes(model.graph))
    taken = set[str]()
    for node in nodes(model.graph):
        stem, number = node.name, 0
        while node.name in taken or (number and node.name in uses):
            number += 1
            node.name = f"{stem}_{number}"
        if stem:
            taken.add(node.name)
    return model


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
