"""A double of the runtime's side of TensorRT: it runs the ONNX network that is in the builder double's plans.

As the documented API: a refusal is logged as an error and answered with None or False, a context needs the
shapes and addresses of all its tensors before it is enqueued, and results are there only when the stream was
waited for (``tests.tensorrt_double.memory``).
"""

import enum
import json
import weakref
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from tests.tensorrt_double.builder import (
    MAGIC,
    Dims,
    ILogger,
    Severity,
    plan_header,
    plan_model,
    tensorrt_double,
)
from tests.tensorrt_double.memory import memory_at, stream_of

_TYPES = {"FLOAT": "FLOAT", "FLOAT16": "HALF", "BFLOAT16": "BF16", "INT64": "INT64", "BOOL": "BOOL"}
_NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT32": np.int32, "INT64": np.int64, "BOOL": np.bool_}
_INT8, _FLOAT = "Row major Int8 format", "Row major linear FP32"
_HALF = "Row major linear FP16 format"


@dataclass
class Behaviour:
    """What the double is told, and in ``ended`` the order in which its objects ended."""

    compute_ms: float = 4.0
    enqueue_ms: float = 0.5
    capturable: bool = True
    has_room: bool = True
    enqueues: bool = True
    ended: list[str] = field(default_factory=list)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class LayerInformationFormat(enum.Enum):
    ONELINE, JSON = range(2)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4, FP4 = range(11)


class IProfiler:
    """As in pybind11, a subclass has to call ``__init__``."""

    def __init__(self) -> None:
        self.is_ready = True


def plan_of(
    model: onnx.ModelProto,
    version: str = "10.16.1",
    batches: tuple[int, int, int] = (1, 4, 8),
    flags: Iterable[str] = (),
) -> bytes:
    """A plan as the builder double writes it, with a profile of ``batches`` for a dynamic batch."""
    profile = {}
    for tensor in model.graph.input:
        shape = _shape(tensor)
        profile[tensor.name] = [[batch, *shape[1:]] for batch in batches]
    header = json.dumps({"version": version, "flags": list(flags), "profiles": [profile]}).encode()
    return MAGIC + len(header).to_bytes(8, "big") + header + model.SerializeToString()


def runtime_double(version: str = "10.16.1") -> SimpleNamespace:
    """A module-like value with the builder and the runtime of TensorRT ``version``; see ``.behaviour``."""
    return add_runtime(tensorrt_double(version))


def add_runtime(trt: SimpleNamespace) -> SimpleNamespace:
    """Puts the runtime's names into a module-like value of the builder double."""
    trt.behaviour = Behaviour()
    for kind in (TensorIOMode, TensorLocation, LayerInformationFormat, DataType, IProfiler):
        setattr(trt, kind.__name__, kind)
    trt.Runtime = lambda logger: Runtime(trt, logger)
    return trt


class Runtime:
    def __init__(self, trt: SimpleNamespace, logger: ILogger) -> None:
        assert getattr(logger, "is_ready", False)
        self.engine_host_code_allowed = False
        self._trt, self._log = trt, logger
        weakref.finalize(self, trt.behaviour.ended.append, "runtime")

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> "ICudaEngine | None":
        problem = self._problem(serialized_engine)
        if problem:
            self._log.log(Severity.ERROR, f"IRuntime::deserializeCudaEngine: Error Code 1: {problem}")
            return None
        return ICudaEngine(self._trt, self._log, serialized_engine)

    def _problem(self, plan: bytes) -> str:
        if not plan.startswith(MAGIC):
            return "Serialization (magicTagRead == kMAGIC_TAG failed. Magic tag does not match)"
        header = plan_header(plan)
        if "VERSION_COMPATIBLE" in header["flags"]:
            if self.engine_host_code_allowed:
                return ""
            return "Cannot deserialize engine with lean runtime since IRuntime::getEngineHostCodeAllowed() is false."
        if header["version"] != self._trt.__version__:
            return "Serialization (Version tag does not match)"
        return ""


class ICudaEngine:
    def __init__(self, trt: SimpleNamespace, log: ILogger, plan: bytes) -> None:
        self._trt, self._log, self.header, self.model = trt, log, plan_header(plan), plan_model(plan)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.session = ort.InferenceSession(
            self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._shapes: dict[int, dict[str, Dims]] = {}
        self._tensors = {value.name: value for value in (*self.model.graph.input, *self.model.graph.output)}
        weakref.finalize(self, trt.behaviour.ended.append, "engine")

    @property
    def num_io_tensors(self) -> int:
        return len(self._tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        inputs = {value.name for value in self.model.graph.input}
        return TensorIOMode.INPUT if name in inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        kind = onnx.TensorProto.DataType.Name(self._tensors[name].type.tensor_type.elem_type)
        return DataType[_TYPES.get(kind, "INT32")]

    def get_tensor_location(self, name: str) -> TensorLocation:
        """What is made of shapes alone is computed, and stays, on the host."""
        made_by = {output: node.op_type for node in self.model.graph.node for output in node.output}
        return TensorLocation.HOST if made_by.get(name) == "Shape" else TensorLocation.DEVICE

    def get_tensor_shape(self, name: str) -> Dims:
        return _shape(self._tensors[name])

    def shapes_for(self, batch: int) -> dict[str, Dims]:
        """Shapes of inputs and outputs as they follow from those of the inputs alone."""
        if batch in self._shapes:
            return self._shapes[batch]
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for value in model.graph.input:
            value.type.tensor_type.shape.dim[0].dim_value = batch
        for value in model.graph.output:
            value.type.tensor_type.ClearField("shape")
        del model.graph.value_info[:]
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
        self._shapes[batch] = {value.name: _shape(value) for value in (*inferred.input, *inferred.output)}
        return self._shapes[batch]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        return [Dims(shape) for shape in self.header["profiles"][profile_index][name]]

    def create_execution_context(self) -> "IExecutionContext | None":
        if not self._trt.behaviour.has_room:
            self._log.log(Severity.ERROR, "ICudaEngine::createExecutionContext: Error Code 1: out of memory")
            return None
        return IExecutionContext(self._trt, self._log, self)

    def create_engine_inspector(self) -> "EngineInspector":
        return EngineInspector(self.model)


class IExecutionContext:
    profiler: IProfiler | None

    def __init__(self, trt: SimpleNamespace, log: ILogger, engine: ICudaEngine) -> None:
        vars(self).update(
            _trt=trt,
            _log=log,
            _engine=engine,
            _shapes={},
            _addresses={},
            profiler=None,
            enqueue_emits_profile=True,
        )
        weakref.finalize(self, trt.behaviour.ended.append, "context")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in {"profiler", "enqueue_emits_profile"}:
            raise AttributeError(f"'IExecutionContext' object has no attribute {name!r}")
        if name == "profiler":
            assert value.is_ready
        vars(self)[name] = value

    def _refused(self, message: str) -> bool:
        self._log.log(Severity.ERROR, f"IExecutionContext: Error Code 3: API Usage Error ({message})")
        return False

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self._engine.get_tensor_profile_shape(name, 0)
        declared = self._engine.get_tensor_shape(name)
        if len(shape) != len(declared) or any(d not in (-1, s) for d, s in zip(declared, shape, strict=True)):
            return self._refused(f"{shape} is not {declared}")
        if declared[0] == -1 and not low[0] <= shape[0] <= high[0]:
            return self._refused(f"{shape} is outside of profile 0")
        self._shapes[name] = shape
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        """With a size of -1 where that of an input is missing, or where it depends on values."""
        if not self._shapes:
            return self._engine.get_tensor_shape(name)
        return self._engine.shapes_for(next(iter(self._shapes.values()))[0])[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        behaviour, stream = self._trt.behaviour, stream_of(stream_handle)
        stream.device.host_ms += behaviour.enqueue_ms
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        for name in names:
            if name not in self._addresses:
                return self._refused(f"address is not set for tensor {name}")
            if -1 in self.get_tensor_shape(name):
                return self._refused(f"shape is not set for tensor {name}")
        if not behaviour.enqueues or (stream.capturing is not None and not behaviour.capturable):
            return self._refused("operation not permitted when stream is capturing")
        shapes = {name: self.get_tensor_shape(name) for name in names}
        addresses = dict(self._addresses)
        stream.enqueue(lambda: self._run(shapes, addresses), "compute", behaviour.compute_ms)
        return True

    def _run(self, shapes: dict[str, Dims], addresses: dict[str, int]) -> None:
        engine = self._engine
        views = {}
        for name, shape in shapes.items():
            dtype = np.dtype(_NUMPY[engine.get_tensor_dtype(name).name])
            nbytes = int(np.prod(shape)) * dtype.itemsize
            views[name] = memory_at(addresses[name], nbytes).view(dtype).reshape(shape)
        inputs = [value.name for value in engine.session.get_inputs()]
        outputs = [value.name for value in engine.session.get_outputs()]
        results = engine.session.run(outputs, {name: views[name] for name in inputs})
        for name, result in zip(outputs, results, strict=True):
            views[name][...] = result
        if self.profiler is not None and self.enqueue_emits_profile:
            for index, node in enumerate(engine.model.graph.node):
                self.profiler.report_layer_time(node.name, 0.25 * (index + 1))  # type: ignore[attr-defined]


class EngineInspector:
    """Each ONNX node is a layer; a convolution is INT8 where the network has Q/DQ pairs, else as its weights.

    Types are known where the batch is fixed, or for a context that has its shapes.
    """

    execution_context: "IExecutionContext | None" = None

    def __init__(self, model: onnx.ModelProto) -> None:
        self._dynamic = any(-1 in _shape(value) for value in model.graph.input)
        self._nodes = list(model.graph.node)
        types = {tensor.data_type for tensor in model.graph.initializer}
        self._float = _HALF if onnx.TensorProto.FLOAT16 in types else _FLOAT

    def get_engine_information(self, format: LayerInformationFormat) -> str:  # noqa: A002
        assert format is LayerInformationFormat.JSON
        form = _INT8 if any(node.op_type == "QuantizeLinear" for node in self._nodes) else self._float
        context = self.execution_context
        if self._dynamic and (context is None or -1 in context.get_tensor_shape("input")):
            form = "N/A due to dynamic shapes"
        layers = [
            {
                "Name": node.name,
                "LayerType": "CaskConvolution" if node.op_type == "Conv" else "NoOp",
                "Inputs": [{"Name": name, "Format/Datatype": form} for name in node.input[:1]],
                "Outputs": [{"Name": name, "Format/Datatype": form} for name in node.output],
                "Metadata": f"[ONNX Layer: {node.name}]",
            }
            for node in self._nodes
        ]
        return json.dumps({"Layers": layers, "Bindings": []})


def _shape(value: onnx.ValueInfoProto) -> Dims:
    return Dims([d.dim_value if d.HasField("dim_value") else -1 for d in value.type.tensor_type.shape.dim])
