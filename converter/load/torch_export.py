"""TorchScript archives and ExportedPrograms as modules whose batch norms are live again."""

import operator
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from converter.errors import LoadError
from converter.load.determinism import refuse_random
from converter.load.pt2_safety import refuse_code
from converter.load.state_dict import restricted_pickles
from converter.load.torchscript_records import refuse_short_records
from zscgan_common.text import first_line

_DYNAMIC = (
    "torch.export.save(torch.export.export(model.eval(), (torch.randn(2, {shape}),), "
    'dynamic_shapes=({{0: torch.export.Dim("batch")}},)), "model.pt2")'
)
_BATCH_NORMS = {
    torch.ops.aten.batch_norm.default,
    torch.ops.aten._native_batch_norm_legit_no_training.default,
}
_NORM_OF_RANK = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_DROPOUTS = {
    torch.ops.aten.dropout.default,
    torch.ops.aten.dropout_.default,
    torch.ops.aten.feature_dropout.default,
    torch.ops.aten.alpha_dropout.default,
}


def module_from_exported(path: Path, *, trust_pickle: bool) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of a ``.pt2`` file, and the sizes of one input as exported (-1 where it is dynamic).

    An ExportedProgram may hold pickles, compiled libraries and expressions that PyTorch evaluates; unless
    ``trust_pickle``, a file with any that could run code is refused. Raises LoadError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own deserialiser, about its own formats
            if trust_pickle:
                program = torch.export.load(path)
            else:
                refuse_code(path)
                with restricted_pickles():
                    program = torch.export.load(path)
    except LoadError:
        raise
    except Exception as error:  # the deserialiser fails in many ways on a damaged or newer file
        raise LoadError(
            f"{path} can't be read as an ExportedProgram by PyTorch {torch.__version__}: "
            f"{first_line(error)}; export it again with torch.export.save"
        ) from error
    return module_from_program(program, str(path))


def module_from_torchscript(path: Path, shape: tuple[int, int, int]) -> nn.Module:
    """The network of a TorchScript archive, traced or scripted, for inputs of ``shape``.

    Reading TorchScript runs no Python; its tensor operations are translated to an ExportedProgram, then
    compared with the original on random inputs. Raises LoadError.
    """
    from torch._export.converter import TS2EPConverter  # private, but PyTorch's only way out of TorchScript

    class Converter(TS2EPConverter):  # type: ignore[misc]
        """Only the batch is dynamic: solving for height and width too takes minutes."""

        def retrace_as_exported_program(self, gm: fx.GraphModule, _: dict[str, Any]) -> ExportedProgram:
            dynamic = ({0: torch.export.Dim.AUTO},)
            return torch.export.export(gm, self.sample_args, dynamic_shapes=dynamic, strict=False)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r".*torch\.jit.*", FutureWarning)
            warnings.filterwarnings("ignore", r".*torch\.jit.*", DeprecationWarning)
            refuse_short_records(path)
            script = torch.jit.load(path, map_location="cpu").eval().float()
    except LoadError:
        raise
    except Exception as error:  # a damaged archive fails in as many ways as its pickles and its code can
        raise LoadError(f"{path} can't be read as TorchScript: {first_line(error)}") from error
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the converter, about counters that nothing reads
            refuse_random(script, shape)
            program = Converter(script, (x[:2],)).convert()
            names = {name for name, _ in script.named_parameters()}  # the converter makes buffers of them
            module, _ = module_from_program(program, str(path), names)
            expected, got = script(x), module(x)  # another batch than the translated one
    except LoadError:
        raise
    except Exception as error:  # TorchScript, the converter and the exporter each have their own errors
        raise LoadError(
            f"{path}: this TorchScript network can't be translated for inputs of {_times(shape)}: "
            f"{first_line(error)}; check --input-shape, or give its state_dict with --arch file.py:callable"
        ) from error
    # Outputs that are no tensors are refused by the caller, as for every other network.
    if isinstance(expected, Tensor) and not torch.allclose(expected, got, rtol=1e-3, atol=1e-4):
        raise LoadError(
            f"{path}: the translated network differs from the TorchScript original by "
            f"{(expected - got).abs().max():.3g}; give its state_dict with --arch file.py:callable"
        )
    return module


def module_from_program(
    program: ExportedProgram, name: str, parameters: Collection[str] = ()
) -> tuple[nn.Module, tuple[int, ...]]:
    """An exported network in eval mode with modules for its batch norms, and the sizes of one input.

    ``parameters`` names tensors that are parameters although the program has them as buffers.
    Raises LoadError for other than one input, a fixed batch, or an operation that is not one on tensors.
    """
    inputs = [program.graph_module.graph.find_nodes(op="placeholder")][0]
    users = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in inputs if node.name in users]
    if len(values) != 1 or not isinstance(values[0], Tensor):
        raise LoadError(f"{name}: expected a network with one input tensor, got {len(values)} inputs")
    sizes = tuple(_fixed_size(size) for size in values[0].shape)
    if len(sizes) != 4:
        raise LoadError(
            f"{name}: expected an input of 4 dimensions (batch, channels, height, width), got {len(sizes)}"
        )
    if sizes[0] != -1:
        shape = ", ".join(str(size) if size > 0 else "224" for size in sizes[1:])
        raise LoadError(
            f"{name} was exported with a fixed batch of {sizes[0]}; export it again with a dynamic one: "
            + _DYNAMIC.format(shape=shape)
        )
    captured = program.module(check_guards=False)
    graph = captured.graph
    _refuse_foreign(graph, name)
    root: nn.Module = nn.Module()
    for path, tensor in [*captured.named_parameters(), *captured.named_buffers()]:
        _put(root, path, nn.Parameter(tensor.detach()) if path in parameters else tensor)
    for node in graph.find_nodes(op="get_attr"):
        _put(root, node.target, operator.attrgetter(node.target)(captured))
    for node in list(graph.nodes):
        if node.op == "call_function":
            _to_eval(root, graph, node)
    graph.eliminate_dead_code()
    network = fx.GraphModule(root, graph, class_name="Exported")
    return network.eval(), sizes[1:]


def _fixed_size(size: int | torch.SymInt) -> int:
    """``size``, or -1 where it's free; a symbol that the export has solved counts as fixed."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_number else -1


def _to_eval(root: nn.Module, graph: fx.Graph, node: fx.Node) -> None:
    """Put a module for a batch norm, drop a dropout, and drop the counting of batches in training."""
    if node.target in _BATCH_NORMS and all(isinstance(arg, fx.Node) for arg in node.args[3:5]):
        _batch_norm_module(root, graph, node)
    elif node.target in _DROPOUTS or (
        node.target is torch.ops.aten.add_.Tensor
        and str(getattr(node.args[0], "target", "")).endswith("num_batches_tracked")
    ):
        node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
        graph.erase_node(node)


def _batch_norm_module(root: nn.Module, graph: fx.Graph, node: fx.Node) -> None:
    """Replace the batch norm ``node`` by a module with its tensors, where their names say it was."""
    legit = node.target is torch.ops.aten._native_batch_norm_legit_no_training.default
    x, weight, bias, mean, var = node.args[:5]
    eps = node.args[6] if legit else node.args[7]
    tensors = [
        operator.attrgetter(str(arg.target))(root) if isinstance(arg, fx.Node) else None
        for arg in (weight, bias, mean, var)
    ]
    value = x.meta["val"]  # type: ignore[union-attr]
    kind = _NORM_OF_RANK[value.dim()]
    norm = kind(len(tensors[2]), eps=float(eps), affine=tensors[0] is not None)  # type: ignore[arg-type]
    for name, tensor in zip(("weight", "bias", "running_mean", "running_var"), tensors, strict=True):
        if tensor is not None:
            setattr(
                norm, name, nn.Parameter(tensor.detach()) if name in ("weight", "bias") else tensor.detach()
            )
    path = mean.target.rpartition(".")[0] or node.name  # type: ignore[union-attr]
    _put(root, path, norm)
    with graph.inserting_before(node):
        call = graph.call_module(path, (x,))
    call.meta = dict(node.meta)
    if legit:
        call.meta["val"] = node.meta["val"][0]
        for user in list(node.users):  # getitem(…, 0) is the output; the saved statistics have no users
            user.replace_all_uses_with(call)
            graph.erase_node(user)
    else:
        node.replace_all_uses_with(call)
    graph.erase_node(node)


def _put(root: nn.Module, path: str, value: object) -> None:
    """Set ``root.<path>``, making the modules in between."""
    *parents, name = path.split(".")
    for parent in parents:
        if not hasattr(root, parent):
            root.add_module(parent, nn.Module())
        root = getattr(root, parent)
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        if not hasattr(root, name):
            root.register_buffer(name, value)
    else:
        setattr(root, name, value)


def _refuse_foreign(graph: fx.Graph, name: str) -> None:
    """Raise LoadError for an operation other than PyTorch's own on tensors, or one that touches files."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if isinstance(node.target, torch._ops.OpOverload):
            allowed = node.target.namespace in ("aten", "prim", "prims") and "file" not in node.target._opname
        else:
            allowed = getattr(node.target, "__module__", "") in ("_operator", "math", "torch")
        if not allowed:
            raise LoadError(
                f"{name} calls {node.target}, which is no tensor operation of PyTorch; export it without"
            )


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
