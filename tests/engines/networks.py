"""Small Q/DQ networks, written by hand so that the tests of the engines need no converter."""

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WEIGHT_SCALE = 2.0**-11  # of the first output channel; the next two have twice and four times that


class Net:
    """Builds one network node by node; each method gives the name of its result.

    Scales are powers of two and biases whole multiples of ``s_x * s_w``, unless ``exact`` is False: every
    float32 operation of the Q/DQ network is then free of rounding, and two engines must agree bit by bit.
    """

    def __init__(self, shape: tuple[int, ...] = (3, 8, 8), *, seed: int = 0, exact: bool = True) -> None:
        self.rng = np.random.default_rng(seed)
        self.exact = exact
        self.shape = shape
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, NDArray[np.generic]] = {}
        self._channels = {"input": shape[0]}
        self._scales: dict[str, float] = {}

    def constant(self, value: NDArray[np.generic], stem: str = "c") -> str:
        name = f"{stem}{len(self._constants)}"
        self._constants[name] = np.asarray(value)
        return name

    def node(self, kind: str, *inputs: str, **attributes: object) -> str:
        name = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        channels = [self._channels[i] for i in inputs if i in self._channels]
        self._channels[name] = sum(channels) if kind == "Concat" else (channels or [0])[0]
        return name

    def scale(self, value: float) -> np.float32:
        return np.float32(value if self.exact else value * self.rng.uniform(0.8, 1.2))

    def quantized(self, x: str, scale: float = 2**-4) -> str:
        """``x`` through a Q/DQ pair."""
        s = self.scale(scale)
        names = (self.constant(s), self.constant(np.array(0, np.int8)))
        result = self.node("DequantizeLinear", self.node("QuantizeLinear", x, *names), *names)
        self._scales[result] = float(s)
        return result

    def weight(self, codes: NDArray[np.int8], axis: int = 0) -> tuple[str, NDArray[np.float32]]:
        scales = np.array(
            [self.scale(WEIGHT_SCALE * 2.0 ** (i % 3)) for i in range(codes.shape[axis])], np.float32
        )
        zero = np.zeros(len(scales), np.int8)
        name = self.node(
            "DequantizeLinear", *(self.constant(value) for value in (codes, scales, zero)), axis=axis
        )
        return name, scales

    def conv(
        self,
        x: str,
        out: int,
        kernel: int = 3,
        *,
        codes: NDArray[np.int8] | None = None,
        bias: bool = True,
        **attributes: object,
    ) -> str:
        """A convolution of a quantized tensor, by default with random weights and "same" padding."""
        group = int(attributes.get("group", 1))  # type: ignore[call-overload]
        shape = (out, self._channels[x] // group, kernel, kernel)
        codes = self.rng.integers(-127, 128, shape).astype(np.int8) if codes is None else codes
        weight, scales = self.weight(codes)
        inputs = [x, weight]
        if bias:
            unit = self._scales[x] * scales
            values = self.rng.integers(-3000, 3000, out) if self.exact else self.rng.normal(0, 3000, out)
            inputs.append(self.constant((unit * values).astype(np.float32)))
        attributes.setdefault("pads", [kernel // 2] * 4)
        name = self.node("Conv", *inputs, kernel_shape=[kernel, kernel], **attributes)
        self._channels[name] = out
        return name

    def gemm(self, x: str, features: int, out: int) -> str:
        codes = self.rng.integers(-127, 128, (out, features)).astype(np.int8)
        weight, scales = self.weight(codes)
        values = self.rng.integers(-3000, 3000, out)
        bias = self.constant((self._scales[x] * scales * values).astype(np.float32))
        return self.node("Gemm", x, weight, bias, transB=1)

    def clip(self, x: str, low: float, high: float) -> str:
        return self.node("Clip", x, self.constant(np.float32(low)), self.constant(np.float32(high)))

    def model(self, *outputs: str) -> onnx.ModelProto:
        """The network with these outputs, of the types that their operators give."""
        graph = helper.make_graph(
            self._nodes,
            "net",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *self.shape])],
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        return onnx.shape_inference.infer_shapes(model, strict_mode=True)

    def images(self, batch: int = 4) -> NDArray[np.float32]:
        return self.rng.normal(0, 5, (batch, *self.shape)).astype(np.float32)


def literal(model: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first of the ``literal_outputs``."""
    first: NDArray[np.float32] = next(iter(literal_outputs(model, x).values()))
    return first


def literal_outputs(model: onnx.ModelProto, x: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """What ``model`` says, node by node: ONNX Runtime without any optimization, Q/DQ in float."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": x}), strict=True))


def detector(net: Net) -> tuple[str, ...]:
    """Three heads on shared features, of which the scores are also read downstream: rank 4, 3, 2 and int64."""
    features = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    scores, boxes = net.conv(features, 6), net.conv(features, 8, 1)
    rows = net.node("Reshape", boxes, net.constant(np.array([0, 4, -1])))
    deeper = net.quantized(net.node("Relu", net.conv(net.quantized(scores), 4)))
    pooled = net.node("Flatten", net.node("GlobalAveragePool", net.conv(deeper, 4)))
    best = net.node("ArgMax", scores, axis=1, keepdims=0)
    return scores, rows, net.gemm(net.quantized(pooled), 4, 5), best


def small_network(*, seed: int = 0) -> onnx.ModelProto:
    """Convolution, residual block and classifier: ``(batch, 3, 8, 8)`` to ``(batch, 5)``."""
    net = Net(seed=seed)
    x = net.quantized(net.node("Relu", net.conv(net.quantized(net.node("Identity", "input")), 4)))
    inner = net.quantized(net.node("Relu", net.conv(x, 4)))
    x = net.node("Relu", net.node("Add", net.conv(inner, 4), x))
    x = net.node("Flatten", net.node("GlobalAveragePool", net.quantized(x, 2**-3)))
    return net.model(net.gemm(net.quantized(x, 2**-3), 4, 5))
