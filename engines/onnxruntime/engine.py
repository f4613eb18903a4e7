"""ONNX Runtime on the CPU: lowers a Q/DQ network into an engine file and runs it."""

import tempfile
from collections.abc import Collection, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from engines.base import Logits, Outputs, outputs_from
from engines.errors import BuildError
from engines.files import replaced_file
from engines.image_input import IMAGE_INPUT, image_shape
from engines.onnx_passes.file import load_onnx
from engines.onnxruntime.integer_ops import INT8_CONVOLUTION
from engines.onnxruntime.lowering import lower_qdq
from engines.onnxruntime.session import REFUSALS, session_options
from zscgan_common.text import first_line, shortened

ENGINE_KEY = "zscgan-convert engine"
_INTEGER_OPERATORS = frozenset({"QLinearConv", "ConvInteger", "MatMulIntegerToFloat", "QuantizeLinear"})


def build(onnx_path: Path | str, out_path: Path | str, in_float: Collection[str] = ()) -> Path:
    """Writes the engine file of a Q/DQ (or FP32) ONNX network and gives its path.

    The layers ``in_float``, by their nodes' first outputs, compute in float. The engine file is ONNX too, with ONNX
    Runtime's integer operators (``engines.onnxruntime.lowering``); it appears under its name only when ONNX Runtime has
    loaded it. Raises BuildError.
    """
    out_path = Path(out_path)
    lowered = lower_qdq(load_onnx(Path(onnx_path)), in_float)
    if not is_engine(lowered):
        lowered.metadata_props.append(onnx.StringStringEntryProto(key=ENGINE_KEY, value="onnxruntime"))
    with replaced_file(out_path) as temporary:
        onnx.save_model(lowered, temporary)
        OnnxRuntimeEngine(temporary).close()
    return out_path


def is_engine(model: onnx.ModelProto) -> bool:
    """Whether ``build`` wrote ``model``: with all layers in float nothing else tells it from any network."""
    return any(entry.key == ENGINE_KEY for entry in model.metadata_props)


class OnnxRuntimeEngine:
    """An ONNX file on the CPU: an engine file from ``build``, or any network from one image to tensors of numbers.

    ONNX Runtime is set by ``session_options``. ``fixed_batch`` is the only batch that it takes, None for any.

    Raises BuildError for a file that is missing, is no ONNX network, has other inputs than one float32
    (batch, channels, height, width), or outputs that are no tensors of numbers.
    """

    name = "onnxruntime"

    def __init__(self, path: Path | str, threads: int | None = None) -> None:
        self.path = Path(path)
        self.precision = _precision(load_onnx(self.path))
        options = session_options(threads)
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except REFUSALS as error:
            raise BuildError(
                f"expected an ONNX network that ONNX Runtime can load, got {path}: {first_line(error)}"
            ) from error
        self.input_shape, self.fixed_batch = _image_input(self._session, self.path)
        self._input = self._session.get_inputs()[0].name
        self.output_names = _output_names(self._session, self.path)

    def infer(self, x: NDArray[Any]) -> Outputs:
        """Every output of float32 images (batch, channels, height, width), in the order of the ONNX graph."""
        return outputs_from(self.output_names, self._run(x, self.output_names))

    def run(self, x: NDArray[Any]) -> Logits:
        """The first output of float32 images (batch, channels, height, width), as float32."""
        (first,) = self._run(x, self.output_names[:1])
        return np.asarray(first, dtype=np.float32)

    def _run(self, x: NDArray[Any], names: Sequence[str]) -> list[NDArray[Any]]:
        if self._session is None:
            raise BuildError(f"the engine of {self.path} is closed; open it again")
        batch = "batch" if self.fixed_batch is None else str(self.fixed_batch)
        expected = f"float32 ({batch}, {', '.join(map(str, self.input_shape))})"
        if x.dtype != np.float32 or x.shape[1:] != self.input_shape or x.ndim != 4:
            raise BuildError(f"expected images as {expected}, got {x.dtype} {x.shape}")
        if len(x) == 0 or self.fixed_batch not in {None, len(x)}:
            raise BuildError(f"expected images as {expected}, got a batch of {len(x)}")
        try:
            found: list[NDArray[Any]] = self._session.run(names, {self._input: np.ascontiguousarray(x)})
        except REFUSALS as error:
            raise BuildError(f"ONNX Runtime failed to run {self.path}: {first_line(error)}") from error
        return found

    def close(self) -> None:
        """Ends the engine's threads and frees its memory."""
        self._session = None

    def __enter__(self) -> "OnnxRuntimeEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def int8_kernels(path: Path | str) -> tuple[int, int]:
    """How many convolutions of an engine file run as integers, and how many there are.

    Counted in the network that ONNX Runtime executes after all its optimizations, not in the file.
    """
    load_onnx(Path(path))
    options = session_options(1)
    with tempfile.TemporaryDirectory() as folder:
        executed = Path(folder) / "executed.onnx"
        options.optimized_model_filepath = str(executed)
        try:
            ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except REFUSALS as error:
            raise BuildError(f"ONNX Runtime can't load {path}: {first_line(error)}") from error
        nodes = onnx.load(executed, load_external_data=False).graph.node
    integer = sum(
        node.op_type in {"QLinearConv", "ConvInteger"} or node.name.startswith(INT8_CONVOLUTION)
        for node in nodes
    )
    return integer, integer + sum(node.op_type in {"Conv", "FusedConv", "NhwcFusedConv"} for node in nodes)


def _image_input(session: ort.InferenceSession, path: Path) -> tuple[tuple[int, int, int], int | None]:
    """Shape (channels, height, width) of the one input, and its batch where that is fixed."""
    inputs = session.get_inputs()
    shape = image_shape([value.shape for value in inputs])
    if shape is None or inputs[0].type != "tensor(float)":
        given = shortened(", ".join(f"{v.name} {v.type} {v.shape}" for v in inputs)) or "no input"
        raise BuildError(f"expected {IMAGE_INPUT}, of float32, but {path} has {given}")
    batch = inputs[0].shape[0]
    return shape, batch if isinstance(batch, int) else None


def _output_names(session: ort.InferenceSession, path: Path) -> tuple[str, ...]:
    outputs = session.get_outputs()
    others = [
        value for value in outputs if value.type == "tensor(string)" or not value.type.startswith("tensor(")
    ]
    if not outputs or others:
        given = shortened(", ".join(f"{value.name} {value.type}" for value in others)) or "none"
        raise BuildError(
            f"expected outputs that are tensors of numbers, at least one, but {path} has {given}"
        )
    return tuple(value.name for value in outputs)


def _precision(model: onnx.ModelProto) -> str:
    if any(node.op_type in _INTEGER_OPERATORS for node in model.graph.node):
        return "int8"
    half = any(tensor.data_type == onnx.TensorProto.FLOAT16 for tensor in model.graph.initializer)
    return "fp16" if half else "fp32"
