"""Graphs that were exported for a fixed batch: what holds it becomes free, and each image keeps its logits."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from converter.graph.free_batch import with_free_shapes
from converter.graph.simplify import prepare
from converter.graph.twin import twin_from_onnx
from converter.load.onnx_file import with_free_batch

pytestmark = pytest.mark.slow

node = helper.make_node


@dataclass(frozen=True)
class Case:
    """From ``x`` [batch, 3, 4, 4] to ``y``; the constants may be written with ``b`` for the batch."""

    nodes: Sequence[onnx.NodeProto]
    constants: dict[str, int | Sequence[int | str]] = field(default_factory=dict)
    weights: dict[str, tuple[int, ...]] = field(default_factory=dict)
    rank: int = 2
    stuck: str | None = None
    batches: Sequence[int] = (1,)

    def model(self, batch: int) -> onnx.ModelProto:
        random = np.random.default_rng(0)
        numbers = {
            name: np.array(
                values if isinstance(values, int) else [batch if v == "b" else v for v in values], np.int64
            )
            for name, values in self.constants.items()
        }
        tensors = [numpy_helper.from_array(value, name) for name, value in numbers.items()]
        for name, shape in self.weights.items():
            value = (
                np.repeat(random.standard_normal((1, *shape[1:])), shape[0], 0) if shape[0] == batch else None
            )
            value = random.standard_normal(shape) if value is None else value
            tensors.append(numpy_helper.from_array(value.astype(np.float32), name))
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [info("x", TensorProto.FLOAT, [batch, 3, 4, 4])],
            [info("y", TensorProto.FLOAT, [None] * self.rank)],
            tensors,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


POOL = node("GlobalAveragePool", ["x"], ["pool"])
LAST = [node("MatMul", ["flat", "w"], ["product"]), node("Add", ["product", "bias"], ["scores"])]
HEAD = {"w": (3, 5), "bias": (5,)}

CASES = {
    "view": Case([POOL, node("Reshape", ["pool", "to"], ["y"])], {"to": ["b", -1]}, batches=(1, 3)),
    "all but the last": Case([POOL, node("Reshape", ["pool", "to"], ["y"])], {"to": [-1, 3]}, batches=(1, 3)),
    "shuffle": Case(
        [
            node("Reshape", ["x", "apart"], ["a"]),
            node("Transpose", ["a"], ["t"], perm=[0, 2, 1, 3, 4]),
            node("Reshape", ["t", "together"], ["s"]),
            node("ReduceMax", ["s"], ["y"], axes=[2, 3], keepdims=0),
        ],
        {"apart": ["b", 3, 2, 2, 4], "together": ["b", 6, 2, 4]},
        batches=(1, 2),
    ),
    "resized": Case(
        [
            node("Resize", ["x", "", "", "sizes"], ["r"], mode="nearest"),
            node("ReduceMax", ["r"], ["y"], axes=[2, 3], keepdims=0),
        ],
        {"sizes": ["b", 3, 8, 6]},
        batches=(1, 2),
    ),
    "expanded": Case(
        [
            POOL,
            node("Expand", ["pool", "to"], ["e"]),
            node("Mul", ["e", "x"], ["m"]),
            node("ReduceMax", ["m"], ["y"], axes=[2, 3], keepdims=0),
        ],
        {"to": ["b", 3, 4, 4]},
        batches=(1, 3),
    ),
    "a token before the patches": Case(
        [
            node("Reshape", ["x", "to"], ["patches"]),
            node("Concat", ["token", "patches"], ["tokens"], axis=1),
            node("Gather", ["tokens", "last"], ["t"], axis=1),
            node("Flatten", ["t"], ["y"]),
        ],
        {"to": ["b", 3, 16], "last": [0, 2]},
        {"token": (1, 1, 16)},
    ),
    "a token for each of several": Case(
        [
            node("Reshape", ["x", "to"], ["patches"]),
            node("Concat", ["token", "patches"], ["tokens"], axis=1),
            node("Flatten", ["tokens"], ["y"]),
        ],
        {"to": ["b", 3, 16]},
        {"token": (2, 1, 16)},
        batches=(2,),
    ),
    "heads, with the sequence first": Case(
        [
            node("Reshape", ["x", "to"], ["chw"]),
            node("Transpose", ["chw"], ["s"], perm=[2, 0, 1]),  # 16 x b x 3
            node("Reshape", ["s", "rows"], ["r"]),  # 16 b x 3
            node("MatMul", ["r", "w"], ["p"]),
            node("Reshape", ["p", "apart"], ["a"]),  # 16 x b x 3 x 2
            node("ReduceMax", ["a"], ["y"], axes=[0, 2], keepdims=0),
        ],
        {"to": ["b", 3, 16], "rows": [-1, 3], "apart": [16, "b", 3, 2]},
        {"w": (3, 6)},
        batches=(1, 2),
    ),
    "rows of images that lie between others": Case(
        [
            node("Reshape", ["x", "to"], ["chw"]),
            node("Transpose", ["chw"], ["s"], perm=[2, 0, 1]),  # 16 x 1 x 3
            node("Reshape", ["s", "rows"], ["r"]),
            node("MatMul", ["r", "w"], ["p"]),
            node("Reshape", ["p", "apart"], ["a"]),
            node("ReduceMax", ["a"], ["y"], axes=[0], keepdims=0),
        ],
        {"to": ["b", 3, 16], "rows": [16, 3], "apart": [16, "b", 6]},
        {"w": (3, 6)},
    ),
    "squeezed to a vector": Case(
        [POOL, node("Squeeze", ["pool"], ["flat"]), *LAST, node("Unsqueeze", ["scores", "zero"], ["y"])],
        {"zero": [0]},
        HEAD,
    ),
    "squeezed on named axes": Case(
        [POOL, node("Squeeze", ["pool", "axes"], ["flat"]), *LAST, node("Reshape", ["scores", "to"], ["y"])],
        {"axes": [0, 2, 3], "to": [1, -1]},
        HEAD,
    ),
    "flattened to a vector": Case(
        [POOL, node("Reshape", ["pool", "all"], ["flat"]), *LAST, node("Reshape", ["scores", "to"], ["y"])],
        {"all": [-1], "to": [1, 5]},
        HEAD,
    ),
    "the only image taken out": Case(
        [
            POOL,
            node("Flatten", ["pool"], ["f"]),
            node("Gather", ["f", "first"], ["flat"], axis=0),
            *LAST,
            node("Unsqueeze", ["scores", "zero"], ["y"]),
        ],
        {"first": 0, "zero": [0]},
        HEAD,
    ),
    "a mean over all images": Case(
        [
            node("ReduceMean", ["x"], ["m"], "mean of all"),
            node("Sub", ["x", "m"], ["s"]),
            node("ReduceMax", ["s"], ["y"], axes=[2, 3], keepdims=0),
        ],
        stuck="mean of all (ReduceMean)",
    ),
    "an image worked on alone": Case(
        [
            node("Squeeze", ["x", "zero"], ["image"]),
            node("ReduceMax", ["image"], ["m"], axes=[1, 2], keepdims=0),
            node("Unsqueeze", ["m", "zero"], ["y"]),
        ],
        {"zero": [0]},
        stuck="m (ReduceMax)",
    ),
}


def outputs(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize(
    ("name", "batch"), [(name, batch) for name, case in CASES.items() for batch in case.batches]
)
def test_any_number_of_images_gets_the_logits_of_each(name: str, batch: int) -> None:
    case = CASES[name]
    model = case.model(batch)
    free, stuck = with_free_shapes(prepare(with_free_batch(model), one_image=batch == 1), batch, (3, 4, 4))
    assert stuck == case.stuck
    x = np.random.default_rng(1).standard_normal((3 * batch, 3, 4, 4)).astype(np.float32)
    parts = [outputs(model, part) for part in np.split(x, 3)]
    np.testing.assert_allclose(outputs(free, x[:batch]), parts[0], atol=1e-5)
    if stuck is None:
        onnx.checker.check_model(free, full_check=True)
        np.testing.assert_allclose(outputs(free, x), np.concatenate(parts), atol=1e-5)
        with torch.no_grad():
            ours = twin_from_onnx(free)(torch.from_numpy(x))
        np.testing.assert_allclose(ours.numpy(), np.concatenate(parts), atol=1e-5)


def test_what_takes_any_batch_already_is_left_alone() -> None:
    case = Case([POOL, node("Flatten", ["pool"], ["y"])])
    prepared = prepare(with_free_batch(case.model(1)))
    assert with_free_shapes(prepared, 1, (3, 4, 4)) == (prepared, None)
