"""Running plans: TensorRT's and those of TensorRT for RTX."""

import logging
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engines.base import Logits, Outputs, outputs_from
from engines.errors import BuildError, EngineUnavailableError
from engines.measurement import Clock, Queries
from engines.memory import open_device
from engines.memory.base import Device
from engines.options import BUFFERS, ENGINE_TITLES, BenchOptions
from engines.tensorrt.api import ICudaEngine, TensorRT
from engines.tensorrt.build_log import new_logger
from engines.tensorrt.execution import Execution, PlanTensors, new_context, tensors_of
from engines.tensorrt.plugins import load_plugins
from engines.tensorrt.queries import GpuQueries

_LOGGER = logging.getLogger(__name__)

PLAN_SUFFIXES = frozenset({".plan", ".engine", ".trt"})
_MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_VERSION_AT = slice(24, 28)  # where trtexec --getPlanVersionOnly reads major, minor, patch and build
# What TensorRT 10 to 11 say of a version-compatible plan, which brings its own runtime as code for the host.
_HOST_CODE_REFUSED = "getEngineHostCodeAllowed"


def is_plan(path: Path) -> bool:
    """Whether ``path`` is a plan: by its first bytes, or by its suffix where it can't be read."""
    try:
        with path.open("rb") as file:
            return file.read(4) in _MAGIC or path.suffix in PLAN_SUFFIXES
    except OSError:
        return path.suffix in PLAN_SUFFIXES


def engine_of_plan(plan: bytes) -> str | None:
    """``"tensorrt"`` or ``"tensorrt-rtx"``, by the first bytes; None for neither."""
    return _MAGIC.get(plan[:4])


def version_of_plan(plan: bytes) -> str | None:
    """The version that built the plan, such as ``"10.13.3.9"``; None where its header has another form."""
    if plan[:4] not in _MAGIC or plan[4:8] != bytes(4) or len(plan) < _VERSION_AT.stop:
        return None
    return ".".join(map(str, plan[_VERSION_AT]))


class PlanEngine:
    """A plan on the GPU; see ``engines.base.Engine``.

    ``buffers`` provides the memory (``engines.memory.open_device``); a ``device`` that is given stays open at
    the end. ``host_code`` allows a version-compatible plan to run the code that it brings: only for plans from
    a source that you trust. Not for several threads at a time.

    Raises EngineUnavailableError where TensorRT or a GPU is missing and BuildError for a plan that can't be
    read here.
    """

    def __init__(
        self,
        path: Path | str,
        buffers: str = BUFFERS[0],
        *,
        host_code: bool = False,
        device: Device | None = None,
    ) -> None:
        self.path = Path(path)
        plan = _read(self.path)
        self.name, trt = _runtime_module(plan, self.path)
        self._own_device = device is None
        self._device = self._opened(buffers) if device is None else device
        self._closed = False
        self._trt: TensorRT = trt
        self._log = new_logger(trt, _LOGGER)
        try:
            with self._device.current():
                self._open(plan, host_code)
        except BaseException:
            self.close()
            raise

    def _opened(self, buffers: str) -> Device:
        try:
            return open_device(buffers)
        except EngineUnavailableError as error:
            raise EngineUnavailableError(
                f"{self.path} is a plan of {ENGINE_TITLES[self.name]}, which runs on an NVIDIA GPU: {error}"
            ) from error

    def _open(self, plan: bytes, host_code: bool) -> None:
        self._runtime = self._new_runtime()
        self._runtime.engine_host_code_allowed = host_code
        load_plugins(self._trt, self._log)
        engine = cast("ICudaEngine | None", self._runtime.deserialize_cuda_engine(plan))
        if engine is None:
            raise BuildError(self._refusal(plan))
        self._engine = engine
        self._tensors = tensors_of(self._trt, engine, self.path)
        self._stream = self._device.stream()
        self._execution = self.new_execution()
        # Outputs of unknown size are refused here already.
        self._execution.set_batch(self._tensors.batches[0])

    def _new_runtime(self) -> Any:
        try:
            return self._trt.Runtime(self._log)
        except (TypeError, RuntimeError) as error:  # the binding's words for "the library gave none"
            raise EngineUnavailableError(
                f"{ENGINE_TITLES[self.name]} {self._trt.__version__} does not start on this machine: "
                f"{self._log.reason or error}; see that nvidia-smi lists a driver that this version supports"
            ) from error

    def _refusal(self, plan: bytes) -> str:
        here = f"{ENGINE_TITLES[self.name]} {self._trt.__version__}"
        said = self._log.reason or "no reason given"
        if _HOST_CODE_REFUSED in said:
            return (
                f"{self.path} is version-compatible: it brings its own runtime, which is code for this machine. If you "
                "trust its source, allow that by --version-compatible (host_code=True in Python)"
            )
        if engine_of_plan(plan) is None:
            return f"expected a plan, but {here} can't read {self.path}: {said}"
        built = version_of_plan(plan)
        by = f", which {ENGINE_TITLES[self.name]} {built} built" if built else ""
        return (
            f"{here} on the {self._device.gpu} can't read {self.path}{by}: {said}. A plan runs on the version "
            "and the kind of GPU that it was built for; build it here from its ONNX file by zscgan-build"
        )

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width)."""
        return self._tensors.item

    @property
    def output_names(self) -> tuple[str, ...]:
        """In TensorRT's order, which is not always that of the ONNX file."""
        return tuple(self._tensors.outputs)

    @cached_property
    def precision(self) -> str:
        """What the plan's layers run in, by the inspector: ``int8``, ``fp16``, ``fp32`` or ``unknown``."""
        from engines.tensorrt.inspector import layers_from_json

        return layers_from_json(self.inspector_json()).precision

    @property
    def device(self) -> Device:
        return self._device

    @property
    def tensors(self) -> PlanTensors:
        return self._tensors

    def new_execution(self) -> Execution:
        """Another context with memory of its own; to be closed before the engine is."""
        self._check_open()
        return Execution(new_context(self._trt, self._engine, self._log), self._tensors, self._device)

    def check_batch(self, batch: int) -> None:
        """BuildError for a batch that the plan was not built for."""
        smallest, largest = self._tensors.batches
        if not smallest <= batch <= largest:
            wanted = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
            raise BuildError(
                f"expected a batch of {wanted}, which {self.path} was built for, got {batch}; "
                "zscgan-build --min-shapes, --opt-shapes and --max-shapes build for others"
            )

    def run(self, x: NDArray[Any]) -> Logits:
        """The first output of float32 images (batch, channels, height, width), as float32."""
        return np.asarray(self.infer(x)[self.output_names[0]], dtype=np.float32)

    def infer(self, x: NDArray[Any]) -> Outputs:
        """Every output of float32 images (batch, channels, height, width), in the plan's order."""
        self._check_open()
        if x.dtype != np.float32 or x.shape[1:] != self.input_shape or x.ndim != 4:
            expected = f"float32 (batch, {', '.join(map(str, self.input_shape))})"
            raise BuildError(f"expected images as {expected}, got {x.dtype} {x.shape}")
        self.check_batch(len(x))
        execution, stream = self._execution, self._stream
        with self._device.current():
            execution.prepare(len(x))
            execution.input[...] = x
            execution.send(stream)
            execution.enqueue(stream)
            execution.fetch(stream)
            stream.synchronize()
            # Copies, as the next query writes to the same memory.
            return outputs_from(self.output_names, [host.copy() for host in execution.outputs])

    def inspector_json(self) -> str:
        """The plan's layers in TensorRT's own JSON; with details where it was built with them."""
        self._check_open()
        with self._device.current():
            inspector = self._engine.create_engine_inspector()
            # Types and formats of a dynamic batch are known only for a context that has its shapes.
            self._execution.prepare(self._tensors.batches[0])
            inspector.execution_context = self._execution.context
            return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def layer_times(self, batch: int, iterations: int = 10) -> dict[str, float]:
        """Layer name -> mean milliseconds on the GPU of ``iterations`` queries, after one that does not count.

        Measuring each layer on its own takes time, so the sum is more than a query takes.
        """
        self._check_open()
        self.check_batch(batch)
        profiler = _new_profiler(self._trt)
        with self._device.current():
            execution = self.new_execution()
            try:
                execution.prepare(batch)
                execution.input[...] = 0
                execution.send(self._stream)
                execution.context.profiler = profiler
                for index in range(iterations + 1):
                    execution.enqueue(self._stream)
                    self._stream.synchronize()
                    if index == 0:
                        profiler.total_ms.clear()
            finally:
                self._stream.synchronize()
                execution.close()
        return {name: total / iterations for name, total in profiler.total_ms.items()}

    def queries(self, batch: int, options: BenchOptions, clock: Clock) -> Queries:
        """Queries of ``batch`` images to be timed; to be closed before the engine is."""
        self._check_open()
        return GpuQueries(self, batch, options, clock)

    def _check_open(self) -> None:
        if self._closed:
            raise BuildError(f"the engine of {self.path} is closed; open it again")

    def close(self) -> None:
        """Ends the context, the engine and the runtime, in this order, then frees memory and device."""
        if self._closed:
            return
        self._closed = True
        with self._device.current():
            if "_stream" in vars(self):
                self._stream.synchronize()
            if "_execution" in vars(self):
                self._execution.close()
            # The last references: TensorRT's objects end with them, in the order that it asks for.
            for part in ("_execution", "_engine", "_runtime", "_stream"):
                vars(self).pop(part, None)
        if self._own_device:
            self._device.close()

    def __enter__(self) -> "PlanEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read(path: Path) -> bytes:
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise BuildError(f"expected a plan, but {path} can't be read: {error.strerror}") from error
    if not plan:
        raise BuildError(f"expected a plan, but {path} is empty")
    return plan


def _runtime_module(plan: bytes, path: Path) -> tuple[str, TensorRT]:
    """Name and module of what reads ``plan``; for one of an unknown form TensorRT or, without it, RTX."""
    from engines.tensorrt.library import load_tensorrt
    from engines.tensorrt.rtx import load_tensorrt_rtx

    loaders = {"tensorrt": load_tensorrt, "tensorrt-rtx": load_tensorrt_rtx}
    name = engine_of_plan(plan)
    if name is not None:
        try:
            return name, loaders[name]()
        except EngineUnavailableError as error:
            raise EngineUnavailableError(f"{path} is a plan of {ENGINE_TITLES[name]}: {error}") from error
    try:
        return "tensorrt", load_tensorrt()
    except EngineUnavailableError:
        return "tensorrt-rtx", load_tensorrt_rtx()


def _new_profiler(trt: TensorRT) -> Any:
    """An ``IProfiler`` whose ``total_ms`` maps layer names to the sum of their times."""

    class Profiler(trt.IProfiler):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.total_ms: dict[str, float] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.total_ms[layer_name] = self.total_ms.get(layer_name, 0.0) + ms

    return Profiler()
