"""One execution context of a plan with its memory: the unit that runs on a stream."""

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engines.errors import BuildError
from engines.image_input import IMAGE_INPUT, image_shape
from engines.memory.base import Device, DeviceBuffer, Stream
from engines.tensorrt.api import ICudaEngine, IExecutionContext, TensorRT
from engines.tensorrt.build_log import BuildLog


@dataclass(frozen=True)
class PlanTensors:
    """The image input and the logits output of a plan.

    ``item`` is (channels, height, width) and ``batches`` the smallest and the largest batch of the plan's first
    optimization profile, which are the same where the batch is fixed.
    """

    input_name: str
    input_dtype: "np.dtype[Any]"
    item: tuple[int, int, int]
    output_name: str
    output_dtype: "np.dtype[Any]"
    batches: tuple[int, int]


def tensors_of(trt: TensorRT, engine: ICudaEngine, path: object) -> PlanTensors:
    """The tensors of ``engine``. Raises BuildError for other inputs and outputs than a classifier has."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    shapes = {name: _sizes(engine.get_tensor_shape(name)) for name in names}
    given = ", ".join(f"{name} {engine.get_tensor_dtype(name).name} {shapes[name]}" for name in names)
    wanted = (
        f"expected a plan with {IMAGE_INPUT}, and one output of logits (batch, ...), but {path} has "
        f"{given or 'no tensors'}"
    )
    item = image_shape([shapes[name] for name in inputs])
    if item is None or len(outputs) != 1:
        raise BuildError(wanted)
    (source,), (target,) = inputs, outputs
    if not shapes[target] or min(shapes[target][1:], default=1) < 1:
        raise BuildError(wanted)
    batch = shapes[source][0]
    dtypes: dict[Any, np.dtype[Any]] = {
        trt.DataType.FLOAT: np.dtype(np.float32),
        trt.DataType.HALF: np.dtype(np.float16),
    }
    input_dtype = dtypes.get(engine.get_tensor_dtype(source))
    output_dtype = dtypes.get(engine.get_tensor_dtype(target))
    if input_dtype is None or output_dtype is None:
        raise BuildError(f"expected float tensors, but {path} has {given}")
    batches = (batch, batch)
    if batch == -1:
        smallest, _, largest = engine.get_tensor_profile_shape(source, 0)
        batches = (int(smallest[0]), int(largest[0]))
    return PlanTensors(source, input_dtype, item, target, output_dtype, batches)


def _sizes(dims: Any) -> tuple[int, ...]:
    return tuple(int(dims[index]) for index in range(len(dims)))


def new_context(trt: TensorRT, engine: ICudaEngine, log: BuildLog) -> IExecutionContext:
    """A context of ``engine``. Raises BuildError, with the reason in ``log``, where the GPU has no room for it."""
    log.errors.clear()
    # TensorRT for RTX compiles kernels for a dynamic shape when it first sees it, by default beside the running
    # queries, which use slower ones until then. Done at once, every query is the one that is meant.
    strategy = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategy is None:
        context = cast("IExecutionContext | None", engine.create_execution_context())
    else:
        config = engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategy.EAGER  # type: ignore[attr-defined]
        context = cast("IExecutionContext | None", engine.create_execution_context(config))
    if context is None:
        reason = log.reason or "no reason given"
        raise BuildError(
            f"TensorRT made no execution context of the plan: {reason}; where the GPU has no room for it, build the "
            "plan for smaller batches"
        )
    return context


class Execution:
    """A context, device memory for input and output, and the page-locked host arrays of both.

    ``prepare`` comes first; then ``send``, ``enqueue`` and ``fetch`` put one query on streams. The memory grows
    to the largest batch so far.
    """

    def __init__(self, context: IExecutionContext, tensors: PlanTensors, device: Device) -> None:
        self._context, self._tensors, self._device = context, tensors, device
        self._buffers: tuple[DeviceBuffer, ...] = ()
        self._hosts: tuple[NDArray[Any], ...] = ()
        self._capacity = self._batch = 0

    @property
    def context(self) -> IExecutionContext:
        return self._context

    @property
    def input(self) -> NDArray[Any]:
        """The host array (batch, channels, height, width) that ``send`` copies; to be filled in place."""
        return self._hosts[0][: self._batch]

    @property
    def output(self) -> NDArray[Any]:
        """The host array that ``fetch`` copies to; it is read after the stream was synchronized."""
        return self._hosts[1][: self._batch]

    def prepare(self, batch: int) -> None:
        """Shapes, memory and addresses for ``batch`` images. No query may be running. Raises BuildError."""
        if batch == self._batch:
            return
        context, tensors = self._context, self._tensors
        shape = (batch, *tensors.item)
        self._batch = 0
        if not context.set_input_shape(tensors.input_name, shape):
            raise BuildError(f"TensorRT refused an input of {shape}")
        logits = _sizes(context.get_tensor_shape(tensors.output_name))
        if logits[:1] != (batch,) or min(logits) < 1:
            raise BuildError(f"expected logits for each of {batch} images, but the plan gives {logits}")
        if batch > self._capacity:
            self._allocate(batch, logits[1:])
        names = (tensors.input_name, tensors.output_name)
        for name, buffer in zip(names, self._buffers, strict=True):
            if not context.set_tensor_address(name, buffer.pointer):
                raise BuildError(f"TensorRT refused the memory of {name}")
        self._batch = batch

    def _allocate(self, batch: int, logits: tuple[int, ...]) -> None:
        self._free()
        shapes = ((batch, *self._tensors.item), (batch, *logits))
        dtypes = (self._tensors.input_dtype, self._tensors.output_dtype)
        for shape, dtype in zip(shapes, dtypes, strict=True):
            host = self._device.pinned(shape, dtype)
            self._hosts += (host,)
            self._buffers += (self._device.allocate(host.nbytes),)
        self._capacity = batch

    def send(self, stream: Stream) -> None:
        self._device.copy_to_device(self._buffers[0], self.input, stream)

    def enqueue(self, stream: Stream) -> None:
        if not self._context.execute_async_v3(stream.handle):
            raise BuildError("TensorRT could not enqueue the query; its log says why (-v)")

    def fetch(self, stream: Stream) -> None:
        self._device.copy_to_host(self.output, self._buffers[1], stream)

    def _free(self) -> None:
        for buffer in self._buffers:
            buffer.free()
        self._buffers = self._hosts = ()
        self._capacity = 0

    def close(self) -> None:
        """Ends the context, then frees its memory. No query may be running."""
        del self._context
        self._free()
        self._batch = 0
