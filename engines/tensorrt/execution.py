"""One execution context of a plan with its memory: the unit that runs on a stream."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from engines.errors import BuildError
from engines.image_input import IMAGE_INPUT, image_shape
from engines.memory.base import Device, DeviceBuffer, Stream
from engines.tensorrt.api import ICudaEngine, IExecutionContext, TensorRT
from engines.tensorrt.build_log import BuildLog

_FLOATS: dict[str, np.dtype[Any]] = {"FLOAT": np.dtype(np.float32), "HALF": np.dtype(np.float16)}
# By TensorRT's names: which of them an enum has depends on the version. BF16, FP8 and INT4 have no type in NumPy.
_DTYPES: dict[str, np.dtype[Any]] = {
    **_FLOATS,
    **{name: np.dtype(name.lower()) for name in ("INT8", "UINT8", "INT32", "INT64", "BOOL")},
}


@dataclass(frozen=True)
class PlanTensors:
    """The image input and the outputs of a plan, by name, in its order.

    ``item`` is (channels, height, width) and ``batches`` the smallest and the largest batch of the plan's first
    optimization profile, which are the same where the batch is fixed.
    """

    input_name: str
    input_dtype: "np.dtype[Any]"
    item: tuple[int, int, int]
    outputs: Mapping[str, "np.dtype[Any]"]
    batches: tuple[int, int]


def tensors_of(trt: TensorRT, engine: ICudaEngine, path: object) -> PlanTensors:
    """The tensors of ``engine``. Raises BuildError for other inputs than one image, and for outputs of other types."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    outputs = [name for name in names if name not in inputs]
    shapes = {name: _sizes(engine.get_tensor_shape(name)) for name in names}
    given = ", ".join(f"{name} {engine.get_tensor_dtype(name).name} {shapes[name]}" for name in names)
    item = image_shape([shapes[name] for name in inputs])
    if item is None or not outputs:
        raise BuildError(
            f"expected a plan with {IMAGE_INPUT}, and outputs, but {path} has {given or 'no tensors'}"
        )
    (source,) = inputs
    batch = shapes[source][0]
    input_dtype = _FLOATS.get(engine.get_tensor_dtype(source).name)
    if input_dtype is None:
        raise BuildError(f"expected a float image, but {path} has {given}")
    dtypes = {name: _output_dtype(trt, engine, name, path) for name in outputs}
    batches = (batch, batch)
    if batch == -1:
        smallest, _, largest = engine.get_tensor_profile_shape(source, 0)
        batches = (int(smallest[0]), int(largest[0]))
    return PlanTensors(source, input_dtype, item, dtypes, batches)


def _output_dtype(trt: TensorRT, engine: ICudaEngine, name: str, path: object) -> "np.dtype[Any]":
    kind = engine.get_tensor_dtype(name).name
    if kind not in _DTYPES:
        raise BuildError(
            f"expected outputs of {', '.join(_DTYPES)}, but {name} of {path} is {kind}; put a Cast to float behind it"
        )
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise BuildError(
            f"expected outputs in the GPU's memory, but {name} of {path} is a shape, which TensorRT computes on the "
            "host; build the network without this output"
        )
    return _DTYPES[kind]


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
    """A context, device memory for the input and the outputs, and the page-locked host arrays of all.

    ``prepare`` comes first; then ``send``, ``enqueue`` and ``fetch`` put one query on streams. The memory grows
    to the largest batch so far.
    """

    def __init__(self, context: IExecutionContext, tensors: PlanTensors, device: Device) -> None:
        self._context, self._tensors, self._device = context, tensors, device
        self._dtypes = {tensors.input_name: tensors.input_dtype, **tensors.outputs}
        self._buffers: dict[str, DeviceBuffer] = {}
        self._memory: dict[str, NDArray[np.uint8]] = {}
        self._hosts: dict[str, NDArray[Any]] = {}
        self._batch = 0

    @property
    def context(self) -> IExecutionContext:
        return self._context

    @property
    def input(self) -> NDArray[Any]:
        """The host array (batch, channels, height, width) that ``send`` copies; to be filled in place."""
        return self._hosts[self._tensors.input_name]

    @property
    def outputs(self) -> list[NDArray[Any]]:
        """The host arrays that ``fetch`` copies to, in the plan's order, read after the stream was synchronized."""
        return [self._hosts[name] for name in self._tensors.outputs]

    def set_batch(self, batch: int) -> dict[str, tuple[int, ...]]:
        """Shapes of all tensors for ``batch`` images. Raises BuildError where one depends on the images' values."""
        context, tensors = self._context, self._tensors
        shape = (batch, *tensors.item)
        self._batch = 0
        if not context.set_input_shape(tensors.input_name, shape):
            raise BuildError(f"TensorRT refused an input of {shape}")
        shapes = {name: _sizes(context.get_tensor_shape(name)) for name in tensors.outputs}
        for name, sizes in shapes.items():
            if min(sizes, default=1) < 1:
                raise BuildError(
                    f"expected outputs whose size is known before the images are, but that of {name} is {sizes} for "
                    f"{batch} images: NonZero, NonMaxSuppression and the like give as much as they find. End the "
                    "network before them, and do what follows in your own program"
                )
        return {tensors.input_name: shape, **shapes}

    def prepare(self, batch: int) -> None:
        """Shapes, memory and addresses for ``batch`` images. No query may be running. Raises BuildError."""
        if batch == self._batch:
            return
        shapes = self.set_batch(batch)
        sizes = {name: math.prod(shape) * self._dtypes[name].itemsize for name, shape in shapes.items()}
        # Memory that could not be allocated as a whole is incomplete: each tensor is looked at.
        if any(name not in self._memory or size > self._memory[name].nbytes for name, size in sizes.items()):
            self._allocate(sizes)
        for name, shape in shapes.items():
            # An output may have its batch on any axis: the first bytes of the memory, whatever the shape.
            self._hosts[name] = self._memory[name][: sizes[name]].view(self._dtypes[name]).reshape(shape)
            if not self._context.set_tensor_address(name, self._buffers[name].pointer):
                raise BuildError(f"TensorRT refused the memory of {name}")
        self._batch = batch

    def _allocate(self, sizes: Mapping[str, int]) -> None:
        self._free()
        for name, size in sizes.items():
            host = self._device.pinned((size,), np.uint8)
            self._buffers[name] = self._device.allocate(size)
            self._memory[name] = host

    def send(self, stream: Stream) -> None:
        self._device.copy_to_device(self._buffers[self._tensors.input_name], self.input, stream)

    def enqueue(self, stream: Stream) -> None:
        if not self._context.execute_async_v3(stream.handle):
            raise BuildError("TensorRT could not enqueue the query; its log says why (-v)")

    def fetch(self, stream: Stream) -> None:
        for name in self._tensors.outputs:
            self._device.copy_to_host(self._hosts[name], self._buffers[name], stream)

    def _free(self) -> None:
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers, self._memory, self._hosts = {}, {}, {}

    def close(self) -> None:
        """Ends the context, then frees its memory. No query may be running."""
        del self._context
        self._free()
        self._batch = 0
