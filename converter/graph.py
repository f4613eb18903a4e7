"""A classifier as one graph in two forms that share every name: an FX module and an FP32 ONNX model."""

import copy
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import onnx
import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from calibrators.errors import first_line
from calibrators.inputs import InputSpec
from converter.alignment import INPUT, align, cleaned_onnx, value_name
from converter.causes import exporter_refusal
from converter.devices import moved
from converter.errors import CaptureError
from converter.fold import fold_batch_norms
from converter.idle import drop_idle_nodes
from converter.squeeze import keep_batch_axis

LOGITS, BATCH = "logits", "batch"

_OPSET = 20  # the exporter's own; per-axis DequantizeLinear needs 13, FP16 scales 19


@dataclass(frozen=True)
class FoldedGraph:
    """The classifier in eval mode with its batch norms folded, twice.

    ``module(x)`` gives the logits. It is a plain FX graph of ATen calls, and ``value_name(node)`` is the name
    of the same value in ``onnx``; input and output are ``input`` and ``logits``. Its parameters are its own,
    trainable, and carry the names of the ONNX initializers. It works for every batch size, in eval mode only.

    ``onnx`` is FP32 with a dynamic first axis ``batch``. It declares type and shape (``value_info``) of
    exactly those values that the FX graph knows too: whatever is planned on one can be done on the other. Values
    that are infinite on purpose or complex are not declared, as no range suits them.
    """

    module: fx.GraphModule
    onnx: onnx.ModelProto

    @property
    def activations(self) -> tuple[str, ...]:
        """Names of the float values that depend on the input, in the graph's order: what may need a range."""
        graph = self.onnx.graph
        declared = [value for value in graph.value_info if _is_float_batch(value)]
        known = {value.name for value in (*declared, *graph.output)}
        made = (name for node in graph.node for name in node.output)
        return (INPUT, *(name for name in made if name in known))


def _is_float_batch(value: onnx.ValueInfoProto) -> bool:
    tensor = value.type.tensor_type
    dims = tensor.shape.dim
    return tensor.elem_type == onnx.TensorProto.FLOAT and len(dims) > 0 and dims[0].dim_param == BATCH


def graph_from_model(model: nn.Module, spec: InputSpec, device: torch.device | str = "cpu") -> FoldedGraph:
    """``model`` in eval mode as a graph with its batch norms folded.

    It is traced on the CPU also for a GPU: the files are then the same on every machine. On CUDA ``torch.export`` would
    refuse it, as PyTorch takes cuDNN's batch norm only for batches of at most 65,535, and here the batch has no bound.

    ``model`` moves to ``device`` and is put in eval mode; its weights are left as they are. Raises
    CaptureError where it can't be traced: it must take one batch ``[batch, *spec.shape]`` of any size and
    give logits ``[batch, classes]``, and its forward must not branch on the values of its tensors.
    """
    # Exported from channels_last, a flatten becomes a gather over indices, which hides the layers around it.
    moved(model.eval(), "cpu").to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    x = torch.zeros(2, *spec.shape)
    _check_forward(model, x)
    with _silent_exporters(), torch.no_grad():
        folded = _exported(model, x).module(check_guards=False)
        keep_batch_axis(folded)
        drop_idle_nodes(folded)
        fold_batch_norms(folded)
        program = _onnx_program(_exported(folded, x), x)
    assert program.exported_program is not None
    proto = cleaned_onnx(program.model_proto, batch=BATCH)
    module = _plain_module(program.exported_program.module(check_guards=False))
    align(module, proto)
    moved(model, device)
    moved(module, device)
    return FoldedGraph(module, proto)


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
) -> tuple[Float[Tensor, "batch classes"], dict[str, Tensor]]:
    """Logits for ``x`` and the named intermediate values, in the graph's order, without gradients.

    Raises ValueError for a name that the graph doesn't have.
    """
    observer = _Observer(module, names)
    logits = observer.run(x)
    if missing := sorted(observer.names - observer.values.keys()):
        raise ValueError(f"expected names of values in the graph, got {', '.join(missing)}")
    return logits, observer.values


def _check_forward(model: nn.Module, x: Tensor) -> None:
    """Raise CaptureError unless ``model(x)`` gives logits; ``x`` holds a batch of 2."""
    shape = "x".join(map(str, x.shape[1:]))
    try:
        with torch.no_grad():
            logits = model(x)
    except Exception as error:
        raise CaptureError(
            f"expected a network that takes inputs of {shape}, but it failed on one: {first_line(error)}; "
            "check --input-shape"
        ) from error
    if not isinstance(logits, Tensor):
        raise CaptureError(
            f"expected a network that returns one tensor of logits, got {type(logits).__name__}; "
            "wrap it in a module that returns the logits alone, and name that with --arch"
        )
    if logits.ndim != 2 or len(logits) != len(x):
        raise CaptureError(
            f"expected logits of shape [{len(x)}, classes] for a batch of {len(x)}, "
            f"got {list(logits.shape)}; the network must be a classifier that takes any batch size"
        )


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


def _onnx_program(program: torch.export.ExportedProgram, x: Tensor) -> torch.onnx.ONNXProgram:
    try:
        onnx_program = torch.onnx.export(
            program,
            (x,),
            dynamo=True,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=[LOGITS],
            verbose=False,
        )
    except Exception as error:
        raise CaptureError(
            f"torch.onnx can't write the network as ONNX: {exporter_refusal(error)}; replace that operator, or use "
            "a newer PyTorch"
        ) from error
    assert onnx_program is not None
    return onnx_program


@contextmanager
def _silent_exporters() -> Iterator[None]:
    """No log records and no output meanwhile.

    On a failure torch logs and prints whole graphs, where one message is raised instead.
    """
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(before)


def _plain_module(exported: fx.GraphModule) -> fx.GraphModule:
    """A copy without what torch.export adds: input guards, pytrees, refusing train() and eval().

    The result takes the ONNX model's name for it.
    """
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    result = next(node for node in exported.graph.nodes if node.op == "output").args[0][0]
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            copies[node] = graph.placeholder(INPUT)
        elif node is result:
            args = fx.map_arg(node.args, copies.__getitem__)
            kwargs = fx.map_arg(node.kwargs, copies.__getitem__)
            copies[node] = graph.create_node(node.op, node.target, args, kwargs, name=LOGITS)
        elif node.op == "output":
            graph.output(copies[result])
        elif node.op != "get_attr" or node.users:
            copies[node] = graph.node_copy(node, copies.__getitem__)
            if node.target is torch.ops.aten.view.default:  # which a channels-last input can't have
                copies[node].target = torch.ops.aten.reshape.default
        if node in copies:
            copies[node].meta = {"val": node.meta["val"]} if "val" in node.meta else {}
    module = copy.deepcopy(fx.GraphModule(exported, graph))
    for parameter in module.parameters():
        parameter.requires_grad_(True)
    return module.eval()
