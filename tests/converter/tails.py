"""Networks whose end chooses, as ONNX files."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

node = helper.make_node
FLOAT, INT64, INT32 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32
Output = tuple[str, int, list[int | str | None]]

SIZE, CLASSES, CELLS = 16, 3, 64


def _weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    floats = {
        "w": random.standard_normal((8, 3, 3, 3)) / 3,
        "seg": random.standard_normal((CLASSES, 8, 1, 1)),
        "det": random.standard_normal((4 + CLASSES, 8, 1, 1)),
        "fc": random.standard_normal((8, 5)),
        "again": random.standard_normal((4, 1, 1, 1)),
        "scale": np.full((1, 64, 4), 8.0),
        "low": np.array(0.0),
        "overlap": np.array([0.5]),
        "threshold": np.array([0.4]),
    } | {name: random.uniform(0.5, 1.5, 8) for name in ("gamma", "beta", "mean", "var")}
    whole = {
        "k": [2], "most": [3], "rows": [0, 7, CELLS], "first4": [4], "zero": [0], "end": [99], "one": [1], "two": [2],
        "flat": [-1],
    }  # fmt: skip
    return {name: value.astype(np.float32) for name, value in floats.items()} | {
        name: np.array(value, np.int64) for name, value in whole.items()
    }


def body(stride: int = 1) -> list[onnx.NodeProto]:
    return [
        node("Conv", ["x", "w"], ["conv"], "conv1", pads=[1, 1, 1, 1], strides=[stride, stride]),
        node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["norm"], "bn1"),
        node("Relu", ["norm"], ["y"], "relu1"),
    ]


def classifier() -> list[onnx.NodeProto]:
    return [
        *body(),
        node("GlobalAveragePool", ["y"], ["pool"]),
        node("Flatten", ["pool"], ["features"]),
        node("MatMul", ["features", "fc"], ["logits"], "fc"),
    ]


def detector() -> list[onnx.NodeProto]:
    """Boxes as corners in pixels [n, 64, 4] and scores [n, 64, 3], and the latter as NonMaxSuppression takes them."""
    return [
        *body(stride=2),
        node("Conv", ["y", "det"], ["map"], "det"),
        node("Reshape", ["map", "rows"], ["columns"]),
        node("Transpose", ["columns"], ["anchors"], perm=[0, 2, 1]),
        node("Slice", ["anchors", "zero", "first4", "two"], ["raw"]),
        node("Slice", ["anchors", "first4", "end", "two"], ["class_logits"]),
        node("Sigmoid", ["raw"], ["unit"]),
        node("Mul", ["unit", "scale"], ["boxes"]),
        node("Sigmoid", ["class_logits"], ["scores"]),
        node("Transpose", ["scores"], ["by_class"], perm=[0, 2, 1]),
    ]


def nms() -> list[onnx.NodeProto]:
    """As exporters write it: the boxes that are left, with their classes."""
    return [
        node("NonMaxSuppression", ["boxes", "by_class", "most", "overlap", "threshold"], ["found"], "nms"),
        node("Slice", ["found", "two", "end", "one"], ["place"]),
        node("Reshape", ["place", "flat"], ["places"]),
        node("Gather", ["boxes", "places"], ["selected"], "take", axis=1),
    ]


def efficient_nms() -> list[onnx.NodeProto]:
    given = ["num", "det_boxes", "det_scores", "det_classes"]
    return [
        node(
            "EfficientNMS_TRT", ["boxes", "scores"], given, "efficient", domain="TRT", plugin_version="1",
            score_threshold=0.25, iou_threshold=0.45, max_output_boxes=10, background_class=-1,
        )
    ]  # fmt: skip


def segmenter() -> list[onnx.NodeProto]:
    return [*body(), node("Conv", ["y", "seg"], ["logits"], "seg")]


def argmax() -> list[onnx.NodeProto]:
    return [
        node("ArgMax", ["logits"], ["chosen"], "choose", axis=1, keepdims=0),
        node("Cast", ["chosen"], ["mask"], to=INT32),
    ]


def saved(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[Output],
    batch: int | str = "n",
    opset: int = 17,
) -> Path:
    read = {name for each in nodes for name in each.input}
    graph = helper.make_graph(
        list(nodes),
        "net",
        [helper.make_tensor_value_info("x", FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info(*output) for output in outputs],
        [numpy_helper.from_array(value, name) for name, value in _weights().items() if name in read],
    )
    imports = [helper.make_opsetid("", opset)]
    if any(each.domain for each in nodes):
        imports.append(helper.make_opsetid("TRT", 1))
    onnx.save_model(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


FILES: dict[str, tuple[Callable[[], list[onnx.NodeProto]], list[Output]]] = {
    "argmax": (lambda: [*segmenter(), *argmax()], [("mask", INT32, ["n", SIZE, SIZE])]),
    "topk": (
        lambda: [*classifier(), node("TopK", ["logits", "k"], ["best", "which"], "top", axis=1)],
        [("best", FLOAT, ["n", 2]), ("which", INT64, ["n", 2])],
    ),
    "nms": (
        lambda: [*detector(), *nms()],
        [("found", INT64, [None, 3]), ("selected", FLOAT, ["n", None, 4])],
    ),
    "raw and nms": (
        lambda: [*detector(), *nms()],
        [("boxes", FLOAT, ["n", 64, 4]), ("found", INT64, [None, 3]), ("scores", FLOAT, ["n", 64, 3])],
    ),
    "plugin": (
        lambda: [*detector(), *efficient_nms()],
        [
            ("num", INT32, ["n", 1]),
            ("det_boxes", FLOAT, ["n", 10, 4]),
            ("det_scores", FLOAT, ["n", 10]),
            ("det_classes", INT32, ["n", 10]),
        ],
    ),
}


def file(folder: Path, name: str, batch: int | str = "n") -> Path:
    nodes, outputs = FILES[name]
    fixed: list[Output] = [(o, kind, [batch if d == "n" else d for d in dims]) for o, kind, dims in outputs]
    return saved(folder / "net.onnx", nodes(), fixed, batch)
