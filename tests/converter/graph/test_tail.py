"""The end of a graph that chooses: where it begins, and that it is put back as it was."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from converter.errors import UnsupportedOperatorError
from converter.graph.simplify import prepare, simplify
from converter.graph.tail import Tail, split_tail
from converter.load.model import load_model
from converter.load.options import ModelOptions
from engines.onnxruntime.engine import OnnxRuntimeEngine
from tests.converter.tails import FILES, FLOAT, INT64, SIZE, body, classifier, file, node, saved, segmenter


def split(path: Path) -> tuple[onnx.ModelProto, Tail]:
    head, tail = split_tail(prepare(onnx.load(path)))
    assert tail is not None
    return head, tail


def said(path: Path, x: np.ndarray) -> list[np.ndarray]:
    with OnnxRuntimeEngine(path) as engine:
        return list(engine.infer(x).values())


@pytest.mark.parametrize(
    ("name", "cut", "outputs", "chosen_by"),
    [
        ("argmax", ["logits"], ["logits"], ["ArgMax"]),
        ("topk", ["logits"], ["logits"], ["TopK"]),
        ("nms", ["boxes", "scores"], ["boxes", "scores"], ["NonMaxSuppression"]),
        ("raw and nms", ["boxes", "scores"], ["boxes", "scores"], ["NonMaxSuppression"]),
        ("plugin", ["boxes", "scores"], ["boxes", "scores"], ["EfficientNMS_TRT"]),
    ],
)
def test_where_the_tail_begins(
    name: str, cut: list[str], outputs: list[str], chosen_by: list[str], tmp_path: Path
) -> None:
    head, tail = split(file(tmp_path, name))
    assert [value.name for value in head.graph.output] == outputs
    assert (list(tail.cut), list(tail.chosen_by)) == (cut, chosen_by)
    assert not any(each.op_type in chosen_by for each in head.graph.node)
    onnx.checker.check_model(head, full_check=True)


@pytest.mark.parametrize("name", [name for name in FILES if name != "plugin"])
def test_head_and_tail_are_the_whole_network(name: str, tmp_path: Path) -> None:
    path = file(tmp_path, name)
    head, tail = split(path)
    again = tmp_path / "again.onnx"
    onnx.save_model(tail.attached_to(simplify(head)), again)
    onnx.checker.check_model(onnx.load(again), full_check=True)
    x = np.random.default_rng(0).standard_normal((3, 3, SIZE, SIZE)).astype(np.float32)
    for one, other in zip(said(path, x), said(again, x), strict=True):
        assert np.allclose(one, other, atol=1e-4)
    shorter = tail.taken_off(onnx.load(again))
    assert [value.name for value in shorter.graph.output] == list(tail.head_outputs)


def test_a_plugin_keeps_its_domain_and_attributes(tmp_path: Path) -> None:
    original = onnx.load(file(tmp_path, "plugin"))
    head, tail = split_tail(prepare(original))
    assert tail is not None
    assert [item.domain for item in head.opset_import] == [""]
    whole = tail.attached_to(simplify(head))
    assert {item.domain: item.version for item in whole.opset_import} == {"": 17, "TRT": 1}
    assert whole.graph.node[-1] == original.graph.node[-1]
    assert [value.name for value in whole.graph.output] == [value.name for value in original.graph.output]


def test_what_only_the_tail_has_gets_another_name_where_the_head_took_it(tmp_path: Path) -> None:
    head, tail = split(file(tmp_path, "nms"))
    taken = head.graph.initializer.add()
    taken.CopyFrom(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "most"))
    head.graph.node[0].name = "nms"
    whole = tail.attached_to(head)
    (suppression,) = [each for each in whole.graph.node if each.op_type == "NonMaxSuppression"]
    assert (suppression.input[2], suppression.name) == ("most_tail", "nms_tail")
    assert {tensor.name for tensor in whole.graph.initializer} >= {"most", "most_tail"}


def test_values_that_are_shaped_by_the_batch_go_with_the_tail(tmp_path: Path) -> None:
    nodes = [
        *segmenter(),
        node("ArgMax", ["logits"], ["chosen"], axis=1),
        node("Shape", ["x"], ["shape"], start=0, end=1),
        node("Concat", ["shape", "two", "one", "one"], ["sizes"], axis=0),
        node("Expand", ["chosen", "sizes"], ["mask"]),
    ]
    head, tail = split(saved(tmp_path / "net.onnx", nodes, [("mask", INT64, ["n", 2, SIZE, SIZE])]))
    assert tail.cut == ("logits",)
    assert [each.op_type for each in head.graph.node] == ["Conv", "BatchNormalization", "Relu", "Conv"]
    assert {each.op_type for each in tail.nodes} >= {"ArgMax", "Concat", "Expand"}


def test_a_threshold_at_the_end_is_a_choice_and_one_inside_is_none(tmp_path: Path) -> None:
    nodes = [*segmenter(), node("Greater", ["logits", "low"], ["mask"])]
    _, tail = split(
        saved(tmp_path / "mask.onnx", nodes, [("mask", onnx.TensorProto.BOOL, ["n", 3, SIZE, SIZE])])
    )
    assert tail.chosen_by == ("Greater",)
    inside = [*nodes, node("Where", ["mask", "logits", "low"], ["out"])]
    path = saved(tmp_path / "inside.onnx", inside, [("out", FLOAT, ["n", 3, SIZE, SIZE])])
    assert split_tail(prepare(onnx.load(path)))[1] is None


def middle(chooser: Sequence[onnx.NodeProto], source: str) -> list[onnx.NodeProto]:
    return [
        *body(),
        *chooser,
        node("Cast", [source], ["floats"], to=FLOAT),
        node("Conv", ["floats", "again"], ["out"]),
    ]


def test_a_choice_before_a_layer_is_refused_by_its_name(tmp_path: Path) -> None:
    nodes = [
        *classifier(),
        node("NonZero", ["logits"], ["where"], "choose"),
        node("Cast", ["where"], ["f"], to=FLOAT),
    ]
    nodes += [node("Transpose", ["f"], ["t"]), node("MatMul", ["t", "again2"], ["out"])]
    path = saved(tmp_path / "net.onnx", nodes[:-1], [("t", FLOAT, [None, 2])])
    model = onnx.load(path)
    model.graph.node.append(nodes[-1])
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 3), np.float32), "again2"))
    model.graph.output[0].name = "out"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 3
    onnx.save_model(model, path)
    with pytest.raises(UnsupportedOperatorError, match="NonZero at node choose"):
        load_model(ModelOptions(str(path)))


def test_an_argmax_before_a_layer_stays_in_the_network(tmp_path: Path) -> None:
    nodes = middle([node("ArgMax", ["y"], ["chosen"], "choose", axis=1)], "chosen")
    path = saved(tmp_path / "net.onnx", nodes, [("out", FLOAT, ["n", 4, SIZE, SIZE])])
    assert split_tail(prepare(onnx.load(path)))[1] is None
