"""Exported programs and TorchScript as ONNX with live batch norms, which then comes in as an ONNX file does."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx
import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from calibrators.data.input_spec import InputSpec
from converter.errors import CaptureError, LoadError
from converter.graph.capture import BATCH, module_of, onnx_from_model, onnx_from_program, silent_exporters
from converter.graph.outputs import TensorsOf, named_tensors, tensors_of
from converter.load.answer import outputs_of
from converter.load.determinism import refuse_random
from converter.load.onnx_file import OnnxSource, checked_source, source_from_model
from converter.load.script import onnx_from_script
from zscgan_common.text import first_line

_WRAP = "wrap it in a module whose forward returns such tensors alone, and export that"
_BATCHES = (1, 2, 4, 8, 16)
"""Batches that people trace networks with."""


def image_sizes(program: ExportedProgram, path: Path) -> tuple[int, ...]:
    """Batch, channels, height and width of the only input, -1 where open; raises LoadError for other inputs."""
    users = set(program.graph_signature.user_inputs)
    values = [node.meta["val"] for node in program.graph.find_nodes(op="placeholder") if node.name in users]
    if len(values) != 1 or not isinstance(values[0], Tensor):
        raise LoadError(f"{path}: expected a network with one input tensor, got {len(values)} inputs")
    if not values[0].is_floating_point() or values[0].dim() != 4:
        raise LoadError(
            f"{path}: expected a float input of 4 dimensions (batch, channels, height, width), got "
            f"{values[0].dim()} of {str(values[0].dtype).removeprefix('torch.')}"
        )
    return tuple(_fixed_size(size) for size in values[0].shape)


def source_from_program(program: ExportedProgram, path: Path, shape: tuple[int, int, int]) -> OnnxSource:
    """The network ``program``, which was read from ``path``, for inputs of ``shape``; it is put into eval mode.

    Raises LoadError for what returns no tensors, or others each time; CaptureError where it has no ONNX.
    """
    batch = image_sizes(program, path)[0]
    _to_eval(program.graph)
    x = _pixels(2 if batch == -1 else batch, shape)
    program = _in_float32(program, x, dynamic=batch == -1)
    network = module_of(program)
    names = _require_steady_outputs(network, x, path)
    return _source(onnx_from_program(program, x, names, dynamic=batch == -1), network, path, shape)


def source_from_script(script: torch.jit.ScriptModule, path: Path, shape: tuple[int, int, int]) -> OnnxSource:
    """The network ``script``, which was read from ``path``, for inputs of ``shape``; raises as source_from_program."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # TorchScript is deprecated, and the networks have warnings of their own
        batch = _traced_batch(script, path, shape)
        x = _pixels(2 if batch == -1 else batch, shape)
        names = _require_steady_outputs(script, x, path)
        return _source(onnx_from_script(script, x, path, names, dynamic=batch == -1), script, path, shape)


def source_from_module(module: nn.Module, path: Path, spec: InputSpec) -> OnnxSource:
    """The network ``module``, in eval mode; raises as source_from_program."""
    return _source(onnx_from_model(module, spec), module, path, (spec.shape[0], spec.shape[1], spec.shape[2]))


def source_from_one_image(module: nn.Module, path: Path, spec: InputSpec) -> OnnxSource:
    """The network ``module``, exported for one image and its batch made free: for one that can't be exported otherwise.

    A forward may keep its grid of anchors for inputs of the same shape; it has run before the export, which then finds
    the grid as a constant. Raises CaptureError or LoadError.
    """
    shape = (spec.shape[0], spec.shape[1], spec.shape[2])
    x = _pixels(1, shape)
    names = _require_steady_outputs(module, x, path)
    try:
        with silent_exporters(), torch.no_grad():
            program = torch.export.export(TensorsOf(module), (x,))
    except Exception as error:  # of any kind: the network's forward is the user's code
        raise CaptureError(f"torch.export can't trace the network: {first_line(error)}") from error
    source = _source(onnx_from_program(program, x, names, dynamic=False), module, path, shape)
    return checked_source(source, spec, path)


def _pixels(images: int, shape: tuple[int, int, int]) -> Tensor:
    return torch.rand(images, *shape, generator=torch.Generator().manual_seed(0))


def _fixed_size(size: int | torch.SymInt) -> int:
    """``size``, or -1 where it's free; a symbol that the export has solved counts as fixed."""
    if isinstance(size, int):
        return size
    return int(size.node.expr) if size.node.expr.is_number else -1


def _to_eval(graph: fx.Graph) -> None:
    """Let every operation of ``graph`` that can train do what it does after training, in place."""
    after = {"train": False, "training": False, "dropout_p": 0.0}
    for node in graph.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        names = [argument.name for argument in node.target._schema.arguments]
        given = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        if given.get("running_mean", node) is None:
            continue  # a batch norm without statistics takes those of the batch at all times
        for name in given.keys() & after.keys():
            if name in node.kwargs:
                node.update_kwarg(name, after[name])
            else:
                node.update_arg(names.index(name), after[name])


def _in_float32(program: ExportedProgram, x: Tensor, *, dynamic: bool) -> ExportedProgram:
    """``program``, captured again in float32 where it is of another type."""
    values = [*program.state_dict.values(), *program.constants.values()]
    if all(v.dtype == torch.float32 for v in values if isinstance(v, Tensor) and v.is_floating_point()):
        return program
    shapes = ({0: torch.export.Dim(BATCH)},) if dynamic else None
    return torch.export.export(module_of(program).float(), (x,), dynamic_shapes=shapes)


def _require_steady_outputs(network: Callable[[Tensor], object], x: Tensor, path: Path) -> tuple[str, ...]:
    """The names of what ``network`` gives for ``x``; raises LoadError unless it gives the same again."""
    _, *shape = x.shape
    try:
        with torch.no_grad():
            answer = network(x.clone())
            refuse_random(network, (shape[0], shape[1], shape[2]), len(x))
    except LoadError:
        raise
    except Exception as error:  # the network is the user's
        raise _fails(path, shape, error) from error
    return tuple(outputs_of(answer, len(x), _WRAP))


def _fails(path: Path, shape: Sequence[int], error: BaseException) -> LoadError:
    times = "x".join(map(str, shape))
    return LoadError(f"{path}: the network fails on inputs of {times}: {_reason(error)}; check --input-shape")


def _reason(error: BaseException) -> str:
    """The last line: those before it are TorchScript's code."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _traced_batch(script: torch.jit.ScriptModule, path: Path, shape: tuple[int, int, int]) -> int:
    """The only number of images that ``script`` takes, or -1 for any. Raises LoadError."""
    failure: Exception | None = None
    for images in (3, *_BATCHES):
        try:
            with torch.no_grad():
                answer = script(_pixels(images, shape))
        except Exception as error:  # noqa: BLE001 - of TorchScript's interpreter and of what it runs; told below
            failure = failure or error
            continue
        if all(output.shape[:1] == (images,) for output in _tensors_in(answer)):
            return -1 if images == 3 else images
    if failure is None:
        return 1  # its answers are no outputs, which is said later
    raise _fails(path, shape, failure) from failure


def _tensors_in(answer: object) -> tuple[Tensor, ...]:
    """The tensors in ``answer``; none where it is something else."""
    try:
        return tuple(named_tensors(answer).values())
    except TypeError:
        return ()


def _source(
    model: onnx.ModelProto, network: Callable[[Tensor], object], path: Path, shape: tuple[int, int, int]
) -> OnnxSource:
    """The source of ``model``, which was written from ``network``."""
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims[1:], shape, strict=True):
        dim.dim_value = size
    fixed = dims[0].dim_value > 0

    def reference(x: Tensor) -> tuple[Tensor, ...]:
        if fixed or len(x) > 1:
            return tensors_of(network(x))
        # For a batch of one, x.squeeze() would take the images' axis away; in the ONNX graph it doesn't.
        return tuple(output[:1] for output in tensors_of(network(torch.cat([x, x]))))

    return replace(source_from_model(model, path), reference=reference)
