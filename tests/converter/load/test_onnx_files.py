"""Files as exporters, optimizers and people write them, each from the file to ONNX Runtime's integers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from calibrators.data.batches import random_pixels
from converter.errors import ConversionError
from converter.graph.capture import graph_from_onnx, observe
from converter.load.model import load_model
from converter.load.options import ModelOptions
from converter.quantize.placement import place_quantizers
from converter.quantize.qdq import qdq_from_onnx

Weights = dict[str, np.ndarray]
CLASSES = 5
node = helper.make_node


def usual_weights(channels: int = 3) -> Weights:
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((8, channels, 3, 3)),
        "b": random.standard_normal(8),
        "fc": random.standard_normal((8, CLASSES)),
        "fcb": random.standard_normal(CLASSES),
    }
    weights |= {name: random.uniform(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "var")}
    return {name: value.astype(np.float32) for name, value in weights.items()}


def body(source: str = "x", result: str = "y") -> list[onnx.NodeProto]:
    """Conv, BatchNormalization and Relu."""
    return [
        node("Conv", [source, "w", "b"], ["conv"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["norm"]),
        node("Relu", ["norm"], [result]),
    ]


def head(source: str = "y") -> list[onnx.NodeProto]:
    """GlobalAveragePool, Flatten, Gemm."""
    return [
        node("GlobalAveragePool", [source], ["pool"]),
        node("Flatten", ["pool"], ["flat"]),
        node("Gemm", ["flat", "fc", "fcb"], ["logits"]),
    ]


@dataclass(frozen=True)
class File:
    """What is written: the usual classifier, but for what is given."""

    nodes: Sequence[onnx.NodeProto] = field(default_factory=lambda: [*body(), *head()])
    weights: Weights = field(default_factory=dict)
    """Besides the usual ones, or in their place."""
    constants: Sequence[str] = ()
    """Weights that are Constant nodes."""
    shape: Sequence[int | str | None] = ("N", 3, 8, 8)
    opset: int = 17
    source: str = "x"
    result: str = "logits"
    rank: int | None = 2
    """Of the output; None leaves its shape out."""
    inputs_too: bool = False
    ir_version: int = 8
    domains: Sequence[str] = ()
    functions: Sequence[onnx.FunctionProto] = ()
    kind: int = TensorProto.FLOAT
    change: Callable[[onnx.ModelProto], None] = lambda _: None

    def save(self, path: Path) -> Path:
        channels = self.shape[1] if self.shape[1] in (1, 3) else 3
        assert isinstance(channels, int)
        weights = usual_weights(channels) | self.weights
        tensors = {name: numpy_helper.from_array(value, name) for name, value in weights.items()}
        first = [node("Constant", [], [name], value=tensors.pop(name)) for name in self.constants]
        info = helper.make_tensor_value_info
        inputs = [info(self.source, self.kind, self.shape)]
        inputs += [info(t.name, t.data_type, t.dims) for t in tensors.values() if self.inputs_too]
        graph = helper.make_graph(
            [*first, *self.nodes],
            "net",
            inputs,
            [info(self.result, TensorProto.FLOAT, None if self.rank is None else [None] * self.rank)],
            list(tensors.values()),
        )
        opsets = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in self.domains)]
        model = helper.make_model(
            graph, opset_imports=opsets, ir_version=self.ir_version, functions=list(self.functions)
        )
        self.change(model)
        onnx.save(model, path)
        return path


def renamed(names: dict[str, str]) -> Callable[[onnx.ModelProto], None]:
    """A change that gives values, weights and nodes other names."""

    def change(model: onnx.ModelProto) -> None:
        for item in model.graph.node:
            for values in (item.input, item.output):
                values[:] = [names.get(name, name) for name in values]
        for value in (*model.graph.initializer, *model.graph.input, *model.graph.output):
            value.name = names.get(value.name, value.name)

    return change


def same_node_names(model: onnx.ModelProto) -> None:
    for item in model.graph.node:
        item.name = "node"


def notes_everywhere(model: onnx.ModelProto) -> None:
    model.doc_string = model.graph.doc_string = "ours"
    helper.set_model_props(model, {"author": "me"})
    for item in model.graph.node:
        item.doc_string = "a node"


def sparse_weight(model: onnx.ModelProto) -> None:
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "fc")
    values = numpy_helper.to_array(weight).reshape(-1)
    model.graph.initializer.remove(weight)
    model.graph.sparse_initializer.append(
        helper.make_sparse_tensor(
            numpy_helper.from_array(values, "fc"),
            numpy_helper.from_array(np.arange(len(values)), "fc_indices"),
            [8, CLASSES],
        )
    )


def branch(name: str, value: str) -> onnx.GraphProto:
    result = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    return helper.make_graph([node("Identity", [value], [name])], name, [], [result])


def block_function() -> onnx.FunctionProto:
    return helper.make_function(
        "mine",
        "Block",
        ["a", "w", "b"],
        ["c"],
        [node("Conv", ["a", "w", "b"], ["d"], pads=[1, 1, 1, 1]), node("Relu", ["d"], ["c"])],
        [helper.make_opsetid("", 17)],
    )


W, FC = usual_weights()["w"], usual_weights()["fc"]
MEAN = np.array([123.7, 116.3, 103.5], np.float32).reshape(1, 3, 1, 1)
STD = np.array([58.4, 57.1, 57.4], np.float32).reshape(3, 1, 1)
BLOCK = [node("Block", ["x", "w", "b"], ["y"], domain="mine")]

CONVERTED: dict[str, File] = {
    **{f"opset {opset}": File(opset=opset) for opset in (7, 8, 9, 10, 11, 12, 13, 21)},
    "initializers are inputs": File(inputs_too=True, ir_version=3, opset=8),
    "weights are Constant nodes": File(constants=["w", "b", "gamma", "beta", "mean", "var", "fc", "fcb"]),
    "dropout and identity": File(
        [
            *body(result="r"),
            node("Identity", ["r"], ["i"]),
            node("Dropout", ["i"], ["y", "mask"]),
            *head(),
        ],
        opset=12,
    ),
    "dropout told that it does not train": File(
        [*body(result="r"), node("Dropout", ["r", "ratio", "no"], ["y"]), *head()],
        {"ratio": np.array(0.5, np.float32), "no": np.array(False)},
    ),
    "a weight behind Transpose": File(
        [
            node("Transpose", ["fc_t"], ["fc_"], perm=[1, 0]),
            *body(),
            *head()[:2],
            node("MatMul", ["flat", "fc_"], ["product"]),
            node("Add", ["product", "fcb"], ["logits"]),
        ],
        {"fc_t": FC.T.copy()},
    ),
    "a weight behind Reshape": File(
        [node("Reshape", ["w_flat", "to"], ["w_"]), node("Conv", ["x", "w_"], ["y"]), *head()],
        {"w_flat": W.reshape(8, -1), "to": np.array(W.shape)},
    ),
    "a weight of FP16 behind Cast": File(
        [node("Cast", ["half"], ["w_"], to=TensorProto.FLOAT), node("Conv", ["x", "w_"], ["y"]), *head()],
        {"half": W.astype(np.float16)},
    ),
    "a weight of float64 behind Cast": File(
        [node("Cast", ["double"], ["w_"], to=TensorProto.FLOAT), node("Conv", ["x", "w_"], ["y"]), *head()],
        {"double": W.astype(np.float64)},
    ),
    "a weight with arithmetic before it": File(
        [node("Mul", ["w", "half"], ["w_"]), node("Conv", ["x", "w_"], ["y"]), *head()],
        {"half": np.float32([0.5])},
    ),
    "float64 between casts": File(
        [
            *body(result="r"),
            node("Cast", ["r"], ["d"], to=TensorProto.DOUBLE),
            node("Mul", ["d", "two"], ["m"]),
            node("Cast", ["m"], ["y"], to=TensorProto.FLOAT),
            *head(),
        ],
        {"two": np.array(2.0)},
    ),
    "shapes computed in int64": File(
        [
            *body(),
            node("GlobalAveragePool", ["y"], ["pool"]),
            node("Shape", ["pool"], ["shape"]),
            node("Gather", ["shape", "zero"], ["batch"], axis=0),
            node("Unsqueeze", ["batch", "first"], ["batches"]),
            node("Concat", ["batches", "rest"], ["to"], axis=0),
            node("Reshape", ["pool", "to"], ["flat"]),
            head()[2],
        ],
        {"zero": np.array(0), "first": np.array([0]), "rest": np.array([-1])},
    ),
    "sizes that are not declared": File(shape=(None, 3, None, None)),
    "an output without a shape": File(rank=None),
    "a batch of size 0": File(shape=(0, 3, 8, 8)),
    "one channel": File(shape=("N", 1, 8, 8)),
    "strange names": File(
        source="images/in:0",
        result="out put",
        change=renamed(
            {"w": "büro/kernel:0", "conv": "a b.c", "fc": "1", "norm": "Ω", "flat": "a/b", "fcb": "a//b"}
        ),
        nodes=[*body("images/in:0"), *head()[:2], node("Gemm", ["flat", "fc", "fcb"], ["out put"])],
    ),
    "names that Python has": File(
        change=renamed(
            {"w": "self", "b": "forward", "conv": "lambda", "norm": "training", "fc": "graph", "y": "x.y"}
        ),
    ),
    "one name for all nodes": File(change=same_node_names),
    "a node that nothing reads": File([*body(), node("Sqrt", ["y"], ["dead"]), *head()]),
    "notes, metadata": File(change=notes_everywhere),
    "an inner value is the output, and read on": File(
        [*body(), *head(), node("Softmax", ["logits"], ["unread"])],
    ),
    "softmax at the end": File(
        [*body(), *head()[:2], node("Gemm", ["flat", "fc", "fcb"], ["z"]), node("Softmax", ["z"], ["logits"])]
    ),
    "a function of the model": File([*BLOCK, *head()], domains=["mine"], functions=[block_function()]),
    "a branch on a constant": File(
        [
            *body(result="r"),
            node("If", ["yes"], ["y"], then_branch=branch("then", "r"), else_branch=branch("else", "conv")),
            *head(),
        ],
        {"yes": np.array(True)},
    ),
    "a pool written as ReduceMean": File(
        [*body(), node("ReduceMean", ["y"], ["flat"], axes=[2, 3], keepdims=0), head()[2]], opset=13
    ),
    "old Upsample": File(
        [*body(result="r"), node("Upsample", ["r", "scales"], ["y"], mode="nearest"), *head()],
        {"scales": np.float32([1, 1, 2, 2])},
        opset=9,
    ),
    "Clip with attributes": File(
        [*body(result="r"), node("Clip", ["r"], ["y"], min=0.0, max=6.0), *head()], opset=10
    ),
    "Pad with attributes": File(
        [node("Pad", ["x"], ["p"], pads=[0, 0, 1, 1, 0, 0, 1, 1]), node("Conv", ["p", "w"], ["y"]), *head()],
        opset=10,
    ),
    "a batch of 1 in a Reshape": File(
        [
            *body(),
            node("GlobalAveragePool", ["y"], ["pool"]),
            node("Reshape", ["pool", "to"], ["flat"]),
            head()[2],
        ],
        {"to": np.array([1, -1])},
        shape=(1, 3, 8, 8),
    ),
    "a batch of 2": File(shape=(2, 3, 8, 8)),
    "bytes, normalised inside": File(
        [node("Sub", ["x", "m"], ["c"]), node("Div", ["c", "s"], ["z"]), *body("z"), *head()],
        {"m": MEAN, "s": STD},
    ),
    "ONNX Runtime's fused convolution": File(
        [
            node(
                "FusedConv", ["x", "w", "b"], ["y"], domain="com.microsoft", activation="Relu", pads=[1] * 4
            ),
            *head(),
        ],
        domains=["com.microsoft"],
    ),
    "ONNX Runtime's Gelu": File(
        [
            node("Conv", ["x", "w", "b"], ["c"]),
            node("Gelu", ["c"], ["g"], domain="com.microsoft"),
            node("QuickGelu", ["g"], ["y"], domain="com.microsoft", alpha=1.5),
            *head(),
        ],
        domains=["com.microsoft"],
    ),
}


NOT_RUN = ("a batch of size 0", "one name for all nodes")
"""Files that ONNX Runtime refuses; they hold the usual classifier."""


def options_for(path: Path, file: File) -> ModelOptions:
    shape = None if all(isinstance(size, int) for size in file.shape[1:]) else (3, 8, 8)
    given = any(item.op_type in ("Sub", "Div") for item in file.nodes)
    return ModelOptions(str(path), input_shape=shape, preset=None if given else "unit")


def ran(model: onnx.ModelProto | Path, x: np.ndarray) -> np.ndarray:
    """What the nodes of ``model`` say, node by node: integer kernels of AVX2 without VNNI saturate."""
    content = str(model) if isinstance(model, Path) else model.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {session.get_inputs()[0].name: x})[0]
    return result


@pytest.mark.parametrize("name", CONVERTED)
def test_converts(name: str, tmp_path: Path) -> None:
    file = CONVERTED[name]
    path = file.save(tmp_path / "net.onnx")
    teacher = load_model(options_for(path, file))
    assert teacher.onnx is not None
    graph = graph_from_onnx(teacher.onnx, teacher.spec)
    plan = place_quantizers(graph.onnx)
    assert {weight.axis for weight in plan.weights} == {0, 1}  # the convolution and the last layer
    x = random_pixels(teacher.spec, 4, 0)
    values = observe(graph.module, x, plan.observed)[1]
    amax = {key: float(value.abs().max()) for key, value in values.items()}
    int8 = qdq_from_onnx(graph.onnx, plan, amax)
    onnx.checker.check_model(int8, full_check=True)
    fixed = file.shape[0] if isinstance(file.shape[0], int) else 0
    parts = [part.numpy() for part in x.split(fixed or len(x))]
    runnable = File().save(tmp_path / "same.onnx") if name in NOT_RUN else path
    expected = np.concatenate([ran(runnable, part) for part in parts])
    with torch.no_grad():
        twin = graph.module(x).numpy()
    spread = float(np.abs(expected).max())
    np.testing.assert_allclose(twin, expected, atol=1e-5 * spread)
    np.testing.assert_allclose(ran(graph.onnx, x.numpy()), expected, atol=1e-5 * spread)
    np.testing.assert_allclose(ran(int8, x.numpy()), expected, atol=0.05 * spread)
    assert int8.graph.input[0].name == onnx.load(path).graph.input[0].name
    assert int8.graph.output[0].name == onnx.load(path).graph.output[0].name


TRAINING = [*body(result="r"), node("Dropout", ["r", "ratio", "yes"], ["y"]), *head()]
REFUSED: dict[str, tuple[File, str]] = {
    "channels last": (
        File([node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), *body("t"), *head()], shape=("N", 8, 8, 3)),
        r"got x with its 3 channels last; .*--inputs-as-nchw x",
    ),
    "a float64 input": (
        File([node("Cast", ["x"], ["f"], to=1), *body("f"), *head()], kind=TensorProto.DOUBLE),
        "expected a float input .* got x: double",
    ),
    "a batch norm that trains": (
        File(
            [
                body()[0],
                node(
                    "BatchNormalization",
                    ["conv", "gamma", "beta", "mean", "var"],
                    ["y", "m", "v"],
                    "bn one",
                    training_mode=1,
                ),
                *head(),
            ],
        ),
        "BatchNormalization at node bn one is in training mode; call model.eval",
    ),
    "an old batch norm that trains": (
        File(
            [
                body()[0],
                node(
                    "BatchNormalization",
                    ["conv", "gamma", "beta", "mean", "var"],
                    ["y", "m", "v", "sm", "sv"],
                ),
                *head(),
            ],
            opset=9,
        ),
        "BatchNormalization at node y is in training mode",
    ),
    "a dropout that trains": (
        File(TRAINING, {"ratio": np.array(0.5, np.float32), "yes": np.array(True)}),
        "Dropout at node y is in training mode",
    ),
    "an operator of one's own": (
        File([node("Swirl", ["x"], ["s"], "swirl it", domain="mine"), *body("s"), *head()], domains=["mine"]),
        r"got mine\.Swirl \(opset 1\) at node swirl it; .*onnx\.utils\.extract_model",
    ),
    "no nodes": (File([], result="x", rank=4), "holds a graph without nodes"),
    "a batch that is dropped": (
        File(
            [
                *body(),
                node("GlobalAveragePool", ["y"], ["pool"]),
                node("Gather", ["pool", "zero"], ["one"], "take", axis=0),
                node("Flatten", ["one"], ["flat"], axis=0),
                head()[2],
            ],
            {"zero": np.array(0)},
            shape=(2, 3, 8, 8),
        ),
        r"fixed at node take \(Gather\)",
    ),
}


def test_logits_with_space_are_taken(tmp_path: Path) -> None:
    file = File([*body(), node("GlobalAveragePool", ["y"], ["logits"])], rank=4)
    probe = load_model(options_for(file.save(tmp_path / "net.onnx"), file)).probe
    assert {name: tuple(output.shape[1:]) for name, output in probe.items()} == {"logits": (8, 1, 1)}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_in_one_line(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file, message = REFUSED[name]
    path = file.save(tmp_path / "net.onnx")
    with pytest.raises(ConversionError, match=message) as caught:
        load_model(options_for(path, file))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")
