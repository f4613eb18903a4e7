"""A network as one graph in two forms that share every name: an FP32 ONNX model and its twin in PyTorch."""

import inspect
import logging
import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import numpy as np
import onnx
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import Tensor, fx, nn

from calibrators.data.batches import random_pixels
from calibrators.data.input_spec import InputSpec
from converter.errors import CaptureError
from converter.graph.decompositions import with_known_operators
from converter.graph.devices import move
from converter.graph.export_errors import exporter_refusal
from converter.graph.keep_batch import has_squeezes, keep_batch_axis
from converter.graph.one_by_one import SCALAR, image_by_image, takes_one_image, with_sizes_of_one
from converter.graph.output_names import name_apart, name_outputs
from converter.graph.outputs import LOGITS, ONE_FORM, OUTPUT, TensorsOf, named_tensors
from converter.graph.simplify import simplify
from converter.graph.twin import twin_from_onnx, value_name
from zscgan_common.text import first_line

INPUT, BATCH = "input", "batch"

SAME = 1e-3
"""FP32 ONNX and PyTorch add in other orders; up to this part of an output's spread that is rounding."""
SAME_INTEGERS = 0.01
"""The largest part of an integer output, such as the classes of pixels, that rounding may change."""

OPSET = 20  # the exporter's own; per-axis DequantizeLinear needs 13, FP16 scales 19


@dataclass(frozen=True)
class FoldedGraph:
    """The network in eval mode with its batch norms folded, twice.

    ``onnx`` is FP32 with a dynamic first axis ``batch``. It declares type and shape (``value_info``) of its float
    values, except those that no range suits. ``module(x)``, its twin, gives the output, or a tuple of several, for
    every batch size and in eval mode only; ``graph.twin`` finds values and initializers in it. Its weights are its
    own, and trainable.

    The ONNX model of a network that takes one image alone has an input of 1; ``module`` takes any number all the same,
    and the other values of ``onnx`` are declared as it has them.
    """

    module: fx.GraphModule
    onnx: onnx.ModelProto

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of the float values that depend on the input, in the graph's order: what may need a range."""
        graph = self.onnx.graph
        known = {value.name for value in (*graph.value_info, *graph.output) if _is_batch(value)}
        made = (name for node in graph.node for name in node.output)
        return (graph.input[0].name, *(name for name in made if name in known))


def _is_batch(value: onnx.ValueInfoProto) -> bool:
    """Whether an axis holds the inputs, which attention has on the second one or together with its heads."""
    return any(BATCH in dim.dim_param for dim in value.type.tensor_type.shape.dim)


def graph_from_model(model: nn.Module, spec: InputSpec, device: torch.device | str = "cpu") -> FoldedGraph:
    """``model`` in eval mode as a graph with its batch norms folded.

    It is traced on the CPU also for a GPU: the files are then the same on every machine. On CUDA ``torch.export`` would
    refuse it, as PyTorch takes cuDNN's batch norm only for batches of at most 65,535, and here the batch has no bound.

    ``model`` moves to ``device`` and is put in eval mode; its weights are left as they are. Raises
    CaptureError where it can't be traced: it must take one batch ``[batch, *spec.shape]`` of any size and
    give tensors whose first axis is the batch, and its forward must not branch on the values of its tensors.
    """
    proto = onnx_from_model(move(model.eval(), "cpu"), spec)
    move(model, device)
    return graph_from_onnx(proto, spec, device)


def graph_from_onnx(
    model: onnx.ModelProto, spec: InputSpec, device: torch.device | str = "cpu"
) -> FoldedGraph:
    """``model``, which takes any batch, or one image alone, as a graph with its batch norms folded.

    Raises UnsupportedOperatorError for an operator that the twin doesn't have.
    """
    folded = simplify(model)
    module, alone = twin_from_onnx(folded), takes_one_image(model)
    if alone:
        module = image_by_image(module, random_pixels(spec, 1, 0))
    declare_shapes(folded, module, spec)
    if alone:
        folded.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    return FoldedGraph(module.to(device), folded)


def as_written(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, which has the values of a FoldedGraph's, as its file says it: for one image all sizes are numbers."""
    return with_sizes_of_one(model, BATCH) if takes_one_image(model) else model


def onnx_from_model(model: nn.Module, spec: InputSpec) -> onnx.ModelProto:
    """``model``, on the CPU and in eval mode, as torch.onnx writes it, with its batch norms."""
    # Exported from channels_last, a flatten becomes a gather over indices, which hides the layers around it.
    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    x = torch.zeros(2, *spec.shape)
    names = _check_forward(model, x)
    with silent_exporters(), torch.no_grad():
        program = _exported(
            TensorsOf(model) if len(names) > 1 or names[0] not in (LOGITS, OUTPUT) else model, x
        )
    return onnx_from_program(program, x, names, dynamic=True)


def onnx_from_program(
    program: torch.export.ExportedProgram, x: Tensor, names: Sequence[str], *, dynamic: bool
) -> onnx.ModelProto:
    """``program``, in eval mode, as torch.onnx writes it, with its batch norms and these ``names`` of its outputs.

    ``dynamic`` if it takes any batch.
    """
    with silent_exporters(), torch.no_grad():
        if dynamic and has_squeezes(program.graph):
            module = module_of(program)
            keep_batch_axis(module)
            program = _exported(module, x)
        return without_notes(_onnx_program(with_known_operators(program), x, names).model_proto)


def module_of(program: torch.export.ExportedProgram) -> fx.GraphModule:
    """``program`` as a module that takes any batch; PyTorch 2.8 has no guards to leave out."""
    guards = "check_guards" in inspect.signature(program.module).parameters
    return program.module(check_guards=False) if guards else program.module()


def without_notes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without the exporter's notes: stack traces, which differ from machine to machine and name its folders."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    for item in (
        plain,
        graph,
        *graph.node,
        *graph.initializer,
        *graph.input,
        *graph.output,
        *graph.value_info,
    ):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    return plain


def declare_shapes(model: onnx.ModelProto, module: fx.GraphModule, spec: InputSpec) -> None:
    """Declare the shape of every float value of ``model`` in place, as its twin ``module`` has it for two batches.

    An axis that grows with the batch is ``batch``, or ``12*batch`` where it grows 12 times as fast. Values that are
    infinite on purpose (padding below a max pool, masks before a softmax) are not declared, as no range suits them.
    """
    x = random_pixels(spec, 3, 0)
    smaller, larger = (_shapes(module, x[:batch]) for batch in (2, 3))
    declared = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, list(map(_dim, shape, larger[name])))
        for name, shape in smaller.items()
        if name in larger and len(shape) == len(larger[name])
    }
    graph = model.graph
    del graph.value_info[:]
    for values in (graph.input, graph.output):
        for value in values:
            value.CopyFrom(declared.pop(value.name, value))
    made = {name for node in graph.node for name in node.output}
    graph.value_info.extend(value for name, value in declared.items() if name in made)


def _dim(smaller: int, larger: int) -> int | str:
    """An axis of these sizes for batches of 2 and 3."""
    factor = larger - smaller
    if factor == 0 or smaller != 2 * factor:
        return smaller
    return BATCH if factor == 1 else f"{factor}*{BATCH}"


def _is_finite(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.float32 and bool(value.isfinite().all())


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shape of each finite float value, by its name; no value outlives its last use."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...]] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        name = value_name(node)
        one_number = node.meta.get(SCALAR, False)  # in the ONNX graph, it has no axis
        if name and not one_number and _is_finite(value):
            self.shapes[name] = tuple(value.shape)
        return value


@torch.no_grad()
def _shapes(module: fx.GraphModule, x: Tensor) -> dict[str, tuple[int, ...]]:
    seen = _Shapes(module)
    seen.run(x)
    return seen.shapes


class _Observer(fx.Interpreter):
    """Runs a graph, keeping the named values and freeing the others after their last use."""

    def __init__(self, module: fx.GraphModule, names: Collection[str]) -> None:
        super().__init__(module)
        self.names = frozenset(names)
        self.values: dict[str, Tensor] = {}

    def run_node(self, node: fx.Node) -> Any:
        value = super().run_node(node)
        if (name := value_name(node)) in self.names:
            self.values[name] = value
        return value


@torch.no_grad()
def observe(
    module: fx.GraphModule, x: Float[Tensor, "batch channels height width"], names: Collection[str]
) -> tuple[Any, dict[str, Tensor]]:
    """What ``module`` gives for ``x``, and the named intermediate values, in the graph's order, without gradients.

    Raises ValueError for a name that the graph doesn't have.
    """
    observer = _Observer(module, names)
    outputs = observer.run(x)
    if missing := sorted(observer.names - observer.values.keys()):
        raise ValueError(f"expected names of values in the graph, got {', '.join(missing)}")
    return outputs, observer.values


def same(ours: NDArray[Any], theirs: NDArray[Any]) -> bool:
    """Whether two computations of one output differ by no more than rounding: integers in a hundredth at most."""
    if ours.shape != theirs.shape:
        return False
    if not np.issubdtype(theirs.dtype, np.floating):
        return float(np.mean(ours != theirs)) <= SAME_INTEGERS
    return bool(np.abs(ours - theirs).max() <= SAME * max(1.0, float(np.abs(theirs).max())))


def _check_forward(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """Names of the outputs of ``model(x)``; ``x`` holds a batch of 2. Raises CaptureError where it gives others."""
    shape = "x".join(map(str, x.shape[1:]))
    try:
        with torch.no_grad():
            result = model(x)
    except Exception as error:
        raise CaptureError(
            f"expected a network that takes inputs of {shape}, but it failed on one: {first_line(error)}; "
            "check --input-shape"
        ) from error
    try:
        outputs = named_tensors(result)
    except TypeError as error:
        raise CaptureError(
            f"expected a network that returns {ONE_FORM}, but {error}; wrap it in a module that does, and name that "
            "with --arch"
        ) from error
    for name, output in outputs.items():
        if output.shape[:1] != (len(x),):
            raise CaptureError(
                f"expected outputs of shape [{len(x)}, ...] for a batch of {len(x)}, got {name} of "
                f"{list(output.shape)}; the network must take any batch size"
            )
    return tuple(outputs)


def _exported(model: nn.Module, x: Tensor) -> torch.export.ExportedProgram:
    try:
        return torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim(BATCH)},))
    except Exception as error:
        raise CaptureError(_refusal(error)) from error


def _refusal(error: Exception) -> str:
    """What to tell the user about a failure of torch.export."""
    text = str(error)
    places = re.findall(r'File "([^"]+)", line (\d+), in (?!_)', text)
    place = f" ({places[-1][0]}:{places[-1][1]})" if places else ""
    if "Constraints violated" in text or "specialized" in text.split("\n\n", maxsplit=1)[0]:
        return (
            "expected a network that takes any batch size, but its forward fixes the batch"
            f"{place}; write x.flatten(1), or sizes taken from x.shape[0], in place of a number"
        )
    if "data-dependent" in text:
        return (
            "expected a network with one fixed flow of control, but its forward branches on the values of a "
            f"tensor{place}; use torch.where, or keep one branch for inference"
        )
    return f"torch.export can't trace the network{place}: {first_line(error)}; change its forward accordingly"


def _onnx_program(
    program: torch.export.ExportedProgram, x: Tensor, names: Sequence[str]
) -> torch.onnx.ONNXProgram:
    try:
        onnx_program = torch.onnx.export(
            program,
            (x,),
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=[INPUT],
            verbose=False,
        )
    except Exception as error:
        raise CaptureError(
            f"torch.onnx can't write the network as ONNX: {exporter_refusal(error)}; replace that operator, or use "
            "a newer PyTorch"
        ) from error
    assert onnx_program is not None
    name_apart(onnx_program.model.graph)
    name_outputs(onnx_program.model.graph, names)
    return onnx_program


@contextmanager
def silent_exporters() -> Iterator[None]:
    """No log records, warnings and output meanwhile.

    On a failure torch logs and prints whole graphs, where one message is raised instead. It warns of the weights that a
    hook sets at each call, as the old weight_norm and spectral_norm do, and captures them all the same.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
