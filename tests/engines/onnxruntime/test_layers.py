"""Which layers can be float, what belongs to them, and what a network with some of them in float computes."""

from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from engines.onnx_passes.graph import OnnxGraph
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine, int8_kernels
from engines.onnxruntime.layers import Border, Layers
from engines.onnxruntime.lowering import lower_qdq
from tests.engines.networks import Net, literal, small_network


def layers_of(model: onnx.ModelProto) -> Layers:
    graph = OnnxGraph(model)
    graph.prune()
    return Layers(graph)


def subsets(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [chosen for count in range(len(names) + 1) for chosen in combinations(names, count)]


def run(model: onnx.ModelProto, in_float: tuple[str, ...], x: np.ndarray, folder: Path) -> np.ndarray:
    onnx.save(model, folder / "qdq.onnx")
    built = onnxruntime.build(folder / "qdq.onnx", folder / "engine.onnx", in_float)
    with OnnxRuntimeEngine(built, threads=1) as engine:
        return engine.run(x)


def images(batch: int = 4) -> np.ndarray:
    """Multiples of 2^-6: sums of their products with weights are exact in float32, whatever their order."""
    x = np.random.default_rng(1).normal(0, 5, (batch, 3, 8, 8))
    return (np.rint(x * 64) / 64).astype(np.float32)


def chain(net: Net, quantized: tuple[bool, bool, bool]) -> tuple[str, str, str]:
    """Three convolutions, of which a ``quantized`` one reads a Q/DQ pair; always the same weights."""

    def pair(name: str, present: bool) -> str:
        result = net.quantized(name)  # of the same names and constants, whether anyone reads it or not
        if present:
            return result
        net._scales[name] = net._scales[result]
        return name

    first = net.conv(pair("input", quantized[0]), 4)
    second = net.conv(pair(net.node("Relu", first), quantized[1]), 5)
    return first, second, net.conv(pair(net.node("Relu", second), quantized[2]), 3)


def test_a_node_belongs_to_the_last_layer_before_it() -> None:
    net = Net()
    first = net.conv(net.quantized("input"), 4)
    x = net.quantized(net.node("Relu", first))
    main = net.conv(x, 4)
    total = net.node("Add", main, x)
    last = net.conv(net.quantized(total), 2)
    found = layers_of(net.model(last))
    assert found.quantized == (first, main, last)
    assert (found.owners["input"], found.owners[x], found.owners[total]) == ("input", first, main)
    assert set(found.borders) == {
        Border("input", first, 3 * 64),
        Border(first, main, 4 * 64),  # also as the identity of the Add, once
        Border(main, last, 4 * 64),
    }


def test_a_layer_without_pairs_is_no_choice() -> None:
    net = Net()
    weight = net.constant(net.rng.normal(size=(4, 3, 1, 1)).astype(np.float32))
    plain = net.node("Conv", "input", weight)
    last = net.conv(net.quantized(plain), 2)
    found = layers_of(net.model(last))
    assert (found.quantized, found.owners[plain]) == ((last,), plain)


@pytest.mark.parametrize("quantized", [(0, 1, 1), (0, 0, 1), (1, 1, 0), (0, 0, 0), (1, 0, 0), (1, 0, 1)])
def test_layers_in_float_read_what_was_not_rounded(quantized: tuple[int, int, int], tmp_path: Path) -> None:
    """A float layer behind a float one reads floats, behind an INT8 one what its codes stand for."""
    flags = tuple(map(bool, quantized))
    net, reference = Net(), Net()
    names = chain(net, (True, True, True))
    # Behind an INT8 layer the pair stays, also before a float one.
    pairs = tuple(flag or (position > 0 and flags[position - 1]) for position, flag in enumerate(flags))
    expected = literal(reference.model(chain(reference, pairs)[-1]), images())
    in_float = tuple(name for name, flag in zip(names, flags, strict=True) if not flag)
    found = run(net.model(names[-1]), in_float, images(), tmp_path)
    assert len(np.unique(expected)) > 100
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)
    assert int8_kernels(tmp_path / "engine.onnx") == (sum(flags), 3)


def test_all_layers_in_float_leave_no_rounding(tmp_path: Path) -> None:
    model = small_network()
    everything = layers_of(model).quantized
    assert {node.op_type for node in lower_qdq(model, everything).graph.node}.isdisjoint(
        {"QuantizeLinear", "QLinearConv", "MatMulIntegerToFloat"}
    )
    x = images()
    exact = run(model, everything, x, tmp_path)
    rounded = run(model, (), x, tmp_path)
    assert 0 < np.abs(exact - rounded).max() < 0.2 * np.abs(exact).max()


def test_the_layers_that_are_kept_are_the_same(tmp_path: Path) -> None:
    """Whatever is in float: the integers, scales and zero points of every other layer are those of all in INT8."""
    net = Net()
    model = net.model(chain(net, (True, True, True))[-1])
    names = layers_of(model).quantized

    def kernels(in_float: tuple[str, ...]) -> set[tuple[bytes, ...]]:
        graph = lower_qdq(model, in_float).graph
        constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        return {
            tuple(constants[name].tobytes() for name in node.input if name in constants)
            for node in graph.node
            if node.op_type in {"QLinearConv", "MatMulIntegerToFloat"}
        }

    everything = kernels(())
    for in_float in subsets(names):
        kept = kernels(in_float)
        assert len(kept) == len(names) - len(in_float)
        assert kept <= everything


@pytest.mark.parametrize("seed", [0, 1])
def test_any_choice_gives_an_engine_near_the_float_network(seed: int, tmp_path: Path) -> None:
    """A residual block and a classifier: each choice runs, and none is further off than all in INT8 by much."""
    model = small_network(seed=seed)
    names, x = layers_of(model).quantized, images()
    exact = run(model, names, x, tmp_path)
    furthest = np.abs(run(model, (), x, tmp_path) - exact).max()
    for in_float in subsets(names):
        assert np.abs(run(model, in_float, x, tmp_path) - exact).max() <= 2 * furthest


def test_a_pool_behind_a_float_layer_stays_float() -> None:
    """One of codes in ONNX's layout is many times slower, and no convolution takes the quantizer into itself."""
    net = Net()
    first = net.conv(net.quantized("input"), 4)
    pooled = net.node("MaxPool", net.node("Relu", first), kernel_shape=[2, 2], strides=[2, 2])
    model = net.model(net.conv(net.quantized(pooled), 4))
    lowered = {node.output[0]: node for node in lower_qdq(model, [first]).graph.node}
    pool = next(node for node in lowered.values() if node.op_type == "MaxPool")
    assert [lowered[pool.input[0]].op_type, pool.output[0]] == ["Relu", pooled]
    of_codes = next(node for node in lower_qdq(model).graph.node if node.op_type == "MaxPool")
    assert of_codes.output[0] != pooled
