"""The engines that ``zscgan-bench`` measures: plans as they are, ONNX files in whatever engine is chosen."""

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from engines.base import Engine
from engines.choose import EngineChoice, choose_engine
from engines.errors import BuildError, EngineUnavailableError
from engines.files import existing_file
from engines.memory import open_device
from engines.memory.base import Device
from engines.options import BenchOptions, BuildOptions, OptionError
from engines.tensorrt.engine import PlanEngine, engine_of_plan, is_plan

Say = Callable[[str], None]

_GPU_FLAGS = {
    "cuda_graph": "--cuda-graph",
    "transfers": "--no-transfers",
    "streams": "--streams",
    "buffers": "--buffers",
    "host_code": "--version-compatible",
}
_ONNXRUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc"})


@dataclass(frozen=True)
class Source:
    """A file and what runs it; ``is_plan`` is false of an ONNX file, which TensorRT has to build first."""

    path: Path
    engine: str
    is_plan: bool

    @property
    def on_gpu(self) -> bool:
        return self.engine != "onnxruntime"


def open_engines(
    files: Sequence[Path], engine: str, options: BenchOptions, say: Say, stack: ExitStack
) -> tuple[list[Engine], Device | None]:
    """The engines of ``files``, and the GPU where one is used; ``stack`` closes all of them.

    ``engine`` is that of ONNX files, ``auto`` for the best one here; plans know theirs. ``say`` is told what runs
    where and why. Raises OptionError for options that would mean nothing here, EngineUnavailableError and
    BuildError.
    """
    choice = None if all(is_plan(path) for path in files) else choose_engine(engine)
    sources = [_source(path, engine, choice, say) for path in files]
    _check_flags(sources, options, choice, say)
    device = _device(sources, options, stack)
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    engines: list[Engine] = []
    for index, source in enumerate(sources):
        if not source.on_gpu:
            from engines.onnxruntime.engine import OnnxRuntimeEngine

            engines.append(stack.enter_context(OnnxRuntimeEngine(source.path, options.threads)))
            continue
        assert device is not None
        plan = (
            source.path if source.is_plan else _built(source, folder / f"{index}.plan", device, options, say)
        )
        engines.append(stack.enter_context(PlanEngine(plan, host_code=options.host_code, device=device)))
    return engines, device


def _source(path: Path, engine: str, choice: EngineChoice | None, say: Say) -> Source:
    if is_plan(path):
        if not path.is_file():
            raise BuildError(f"expected a plan, but {path} is {'a folder' if path.is_dir() else 'missing'}")
        with path.open("rb") as file:
            kind = engine_of_plan(file.read(4))
        if engine not in {"auto", kind or "tensorrt"}:
            raise OptionError(
                f"{path} is a plan of {kind or 'TensorRT'}, got --engine {engine}; leave --engine out, "
                "which is for ONNX files"
            )
        return Source(path, kind or "tensorrt", True)
    existing_file(path)
    assert choice is not None
    if engine == "auto" and choice.name == "tensorrt" and _is_onnxruntime_engine(path):
        say(f"{path}: onnxruntime, since it is an engine of ONNX Runtime")
        return Source(path, "onnxruntime", False)
    say(f"{path}: {choice.name} ({choice.reason})")
    return Source(path, choice.name, False)


def _is_onnxruntime_engine(path: Path) -> bool:
    """Whether ``path`` is an engine file of ``engines.onnxruntime.engine``, or no other engine can read it."""
    from engines.onnx_passes.file import load_onnx
    from engines.onnxruntime.engine import is_engine

    model = load_onnx(path)
    return is_engine(model) or any(node.domain in _ONNXRUNTIME_DOMAINS for node in model.graph.node)


def _check_flags(
    sources: Sequence[Source], options: BenchOptions, choice: EngineChoice | None, say: Say
) -> None:
    """Refuses flags that would change nothing, and tells of those that do not concern every file."""
    given = [
        flag for name, flag in _GPU_FLAGS.items() if getattr(options, name) != getattr(BenchOptions, name)
    ]
    on_cpu = [str(source.path) for source in sources if not source.on_gpu]
    if len(on_cpu) == len(sources) and given:
        why = f" ({choice.reason})" if choice is not None else ""
        raise OptionError(
            f"{', '.join(given)} is not supported on the CPU, where ONNX Runtime measures "
            f"{', '.join(on_cpu)}{why}; remove it, or use --engine tensorrt on a machine with a GPU"
        )
    if on_cpu and given:
        say(f"warning: {', '.join(given)} only for what runs on the GPU, not for {', '.join(on_cpu)}")
    if options.threads is not None and not on_cpu:
        raise OptionError("--threads is for the CPU, but every file is measured on the GPU; leave it out")
    if options.host_code and not any(source.is_plan for source in sources):
        raise OptionError("--version-compatible is for plans, but none is given; leave it out")


def _device(sources: Sequence[Source], options: BenchOptions, stack: ExitStack) -> Device | None:
    first = next((source for source in sources if source.on_gpu), None)
    if first is None:
        return None
    try:
        return stack.enter_context(open_device(options.buffers))
    except EngineUnavailableError as error:
        what = f"a plan of {first.engine}" if first.is_plan else f"measured in {first.engine}"
        raise EngineUnavailableError(
            f"{first.path} is {what}, which needs an NVIDIA GPU: {error}. On a CPU, measure an ONNX file or an "
            "engine of zscgan-build --engine onnxruntime"
        ) from error


def _built(source: Source, out_path: Path, device: Device, options: BenchOptions, say: Say) -> Path:
    """The plan of an ONNX file for the batches to be measured, fastest for the largest."""
    smallest, largest = min(options.batches), max(options.batches)
    say(
        f"{source.path}: {source.engine} builds a plan for batches {smallest} to {largest}, fastest for {largest}"
    )
    wanted = BuildOptions(min_batch=smallest, opt_batch=largest, max_batch=largest)
    if source.engine == "tensorrt-rtx":
        from engines.tensorrt import rtx as tensorrt_rtx

        wanted = replace(wanted, compute_capabilities=(device.compute_capability,))
        return tensorrt_rtx.engine_from_onnx(source.path, out_path, wanted)
    from engines.tensorrt import library as tensorrt

    return tensorrt.engine_from_onnx(source.path, out_path, wanted)
