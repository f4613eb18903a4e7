"""The lowered network computes the Q/DQ network's numbers, on integer kernels."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import OnnxRuntimeEngine, int8_kernels
from engines.onnxruntime.lowering import lower_qdq
from tests.engines.networks import WEIGHT_SCALE, Net, detector, literal, literal_outputs, small_network


def operators(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def run_lowered(model: onnx.ModelProto, x: np.ndarray, folder: Path) -> np.ndarray:
    source, built = folder / "qdq.onnx", folder / "engine.onnx"
    onnx.save(model, source)
    with OnnxRuntimeEngine(onnxruntime.build(source, built), threads=1) as engine:
        return engine.run(x)


def relu(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    return net.quantized(net.node("Relu", net.conv(x, 5)), 2**-3)


def relu6(net: Net) -> str:
    x = net.quantized(net.clip(net.conv(net.quantized("input"), 4), 0, 6))
    return net.quantized(net.clip(net.conv(x, 5), 0, 6), 2**-3)


def hardtanh(net: Net) -> str:
    x = net.quantized(net.clip(net.conv(net.quantized("input"), 4), -1.28, 1.22))  # -20.48 and 19.52 steps
    return net.quantized(net.clip(net.conv(x, 5), -2, 3))


def residual(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    main = net.conv(net.quantized(net.node("Relu", net.conv(x, 4))), 4)
    return net.quantized(net.node("Relu", net.node("Add", main, x)))


def downsample(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    main = net.conv(net.quantized(net.node("Relu", net.conv(x, 4))), 6, strides=[2, 2])
    side = net.quantized(net.conv(x, 6, 1, strides=[2, 2]))
    return net.quantized(net.node("Relu", net.node("Add", main, side)))


def float_pointwise_stride(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    return net.node("Sigmoid", net.conv(x, 6, 1, strides=[2, 2]))


def float_asymmetric_dilated(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    return net.node("HardSwish", net.conv(x, 6, 3, pads=[2, 0, 1, 3], strides=[2, 1], dilations=[1, 2]))


def float_signed(net: Net) -> str:
    return net.node("Add", net.conv(net.quantized("input"), 3), "input")


def maxpool(net: Net) -> str:
    x = net.node("Relu", net.conv(net.quantized("input"), 4))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    return net.quantized(net.node("Relu", net.conv(net.quantized(x), 4)))


def maxpool_signed(net: Net) -> str:
    x = net.node("MaxPool", net.conv(net.quantized("input"), 4), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    return net.quantized(net.node("Relu", net.conv(net.quantized(x), 4)))


def maxpool_between_pairs(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    x = net.quantized(net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    return net.quantized(net.node("Relu", net.conv(x, 4)))


def concat(net: Net) -> str:
    x = net.quantized("input")
    branches = [net.node("Relu", net.conv(x, 4)), net.clip(net.conv(x, 3, 1), 0, 2)]
    x = net.quantized(net.node("Concat", *branches, axis=1))
    return net.quantized(net.node("Relu", net.conv(x, 4)))


def concat_mixed_signs(net: Net) -> str:
    x = net.quantized("input")
    branches = [net.node("Relu", net.conv(x, 4)), net.conv(x, 3, 1)]
    x = net.quantized(net.node("Concat", *branches, axis=1))
    return net.quantized(net.node("Relu", net.conv(x, 4)))


def resized(net: Net, x: str, mode: str) -> str:
    return net.node("Resize", x, "", net.constant(np.array([1, 1, 2, 2], np.float32)), mode=mode)


def neck(net: Net) -> str:
    """Upsampled to the nearest pixel between pairs of one scale, and joined with a lateral tensor of that scale."""
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    small = net.quantized(net.node("Relu", net.conv(x, 5, strides=[2, 2])))
    parts = [net.quantized(resized(net, small, "nearest")), x]
    return net.quantized(net.conv(net.quantized(net.node("Concat", *parts, axis=1)), 4))


def upsampled(net: Net) -> str:
    """Nearest without a pair of its own before it."""
    x = net.node("Relu", net.conv(net.quantized("input"), 4))
    return net.quantized(net.conv(net.quantized(resized(net, x, "nearest")), 4))


def linear(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    return net.quantized(net.conv(net.quantized(resized(net, x, "linear")), 4))


def cubic(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    return net.quantized(net.conv(net.quantized(resized(net, x, "cubic")), 4))


def added_activations(net: Net) -> str:
    """Both branches of an Add in pairs, and the sum too."""
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    side = net.quantized(net.node("LeakyRelu", net.conv(x, 4), alpha=0.125))
    return net.quantized(net.conv(net.quantized(net.node("Add", x, side)), 4))


def depthwise(net: Net) -> str:
    x = net.quantized(net.clip(net.conv(net.quantized("input"), 8), 0, 6))
    x = net.quantized(net.clip(net.conv(x, 8, group=8), 0, 6))
    return net.quantized(net.conv(x, 4, 1))


def linear_bottleneck(net: Net) -> str:
    x = net.quantized(net.conv(net.quantized("input"), 4, 1))
    y = net.quantized(net.clip(net.conv(x, 8, 1), 0, 6))
    y = net.conv(net.quantized(net.clip(net.conv(y, 8, group=8), 0, 6)), 4, 1)
    return net.quantized(net.node("Add", x, y))


def grouped(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 8)))
    return net.quantized(net.node("Relu", net.conv(x, 8, group=2)))


def zero_channels(net: Net) -> str:
    codes = net.rng.integers(-127, 128, (6, 3, 3, 3)).astype(np.int8)
    codes[1::2] = 0
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 6, codes=codes)))
    return net.quantized(net.node("Relu", net.conv(x, 4)))


def no_bias(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4, bias=False)))
    return net.node("Add", net.conv(x, 4, bias=False), net.constant(np.float32(1)))


def reread(net: Net) -> str:
    """One tensor with two scales, read by a quantizer and in float."""
    x = net.node("Relu", net.conv(net.quantized("input"), 4))
    a, b = net.conv(net.quantized(x), 4), net.conv(net.quantized(x, 2**-3), 4)
    return net.node("Sum", a, b, x)


def average_pool(net: Net) -> str:
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    x = net.quantized(net.node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]))
    return net.quantized(net.node("Relu", net.conv(x, 4)))


def flattened(net: Net) -> str:
    x = net.node("Relu", net.conv(net.quantized("input"), 4))
    return net.gemm(net.quantized(net.node("Flatten", x)), 4 * 8 * 8, 5)


def scores(net: Net) -> str:
    x = net.conv(net.quantized("input"), 4)
    keys = net.quantized(net.node("Transpose", net.node("Relu", x), perm=[0, 1, 3, 2]))
    return net.node("MatMul", net.quantized(x), keys)


def shared_tensor(net: Net) -> tuple[str, ...]:
    """A Relu, the Q/DQ pair behind it and the convolution before it: all outputs, and all read downstream."""
    y = net.conv(net.quantized("input"), 4)
    x = net.node("Relu", y)
    pair = net.quantized(x)
    return net.quantized(net.conv(pair, 4)), y, x, pair, net.quantized(net.conv(net.quantized(y), 3))


def given_codes(net: Net) -> tuple[str, ...]:
    """Codes of int8 as an output that a convolution reads, too."""
    scale, zero = net.constant(np.float32(2**-4)), net.constant(np.array(0, np.int8))
    codes = net.node("QuantizeLinear", net.node("Relu", net.conv(net.quantized("input"), 4)), scale, zero)
    x = net.node("DequantizeLinear", codes, scale, zero)
    net._scales[x] = 2**-4
    return net.quantized(net.conv(x, 4)), codes


def moved_outputs(net: Net) -> tuple[str, ...]:
    """What a quantizer could move up through is an output on its way: a branch of a Concat, a pool, a reshape."""
    x = net.quantized("input")
    branch = net.node("Relu", net.conv(x, 4))
    joined = net.node("Concat", branch, net.clip(net.conv(x, 3, 1), 0, 2), axis=1)
    pooled = net.node("MaxPool", joined, kernel_shape=[2, 2], strides=[2, 2])
    out = net.quantized(net.conv(net.quantized(pooled), 4))
    return out, branch, pooled, net.node("Flatten", net.quantized(joined))


def shared_head(net: Net) -> tuple[str, ...]:
    """One head's weights on two tensors of other scales."""
    x = net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4)))
    y = net.quantized(net.node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]), 2**-3)
    weight, _ = net.weight(net.rng.integers(-127, 128, (5, 4, 3, 3)).astype(np.int8))
    bias = net.constant((2.0**-15 * net.rng.integers(-3000, 3000, 5)).astype(np.float32))
    heads = [net.node("Conv", level, weight, bias, kernel_shape=[3, 3]) for level in (x, y)]
    return heads[0], net.quantized(heads[1]), heads[1]


def split(net: Net) -> tuple[str, ...]:
    """A node of several results, of which some are outputs."""
    y = net.conv(net.quantized("input"), 6)
    names = [f"part{index}" for index in range(3)]
    net._nodes.append(onnx.helper.make_node("Split", [y], names, axis=1, num_outputs=3))
    net._channels |= dict.fromkeys(names, 2)
    return names[0], net.quantized(net.conv(net.quantized(names[1]), 3)), names[1]


# Network → convolutions that run as integers, of all.
NETWORKS: dict[Callable[[Net], str], tuple[int, int]] = {
    relu: (2, 2),
    relu6: (2, 2),
    hardtanh: (2, 2),
    residual: (3, 3),
    downsample: (4, 4),
    float_pointwise_stride: (2, 2),
    float_asymmetric_dilated: (2, 2),
    float_signed: (1, 1),
    maxpool: (2, 2),
    maxpool_signed: (2, 2),
    maxpool_between_pairs: (2, 2),
    concat: (3, 3),
    concat_mixed_signs: (3, 3),
    neck: (3, 3),
    upsampled: (2, 2),
    linear: (2, 2),
    cubic: (2, 2),
    added_activations: (3, 3),
    depthwise: (3, 3),
    linear_bottleneck: (4, 4),
    grouped: (2, 2),
    zero_channels: (2, 2),
    no_bias: (2, 2),
    reread: (3, 3),
    average_pool: (2, 2),
    flattened: (1, 1),
    scores: (1, 1),
}


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_lowered_network_gives_the_same_bits(
    network: Callable[[Net], str], seed: int, tmp_path: Path
) -> None:
    net = Net(seed=seed)
    model, x = net.model(network(net)), net.images()
    expected = literal(model, x)
    assert len(np.unique(expected)) > 5
    lowered = run_lowered(model, x, tmp_path)
    if network in {float_pointwise_stride, float_asymmetric_dilated}:
        # Sigmoid and HardSwish are computed on other memory layouts: their own rounding may differ.
        np.testing.assert_allclose(lowered, expected, rtol=1e-6, atol=1e-6)
    else:
        np.testing.assert_array_equal(lowered, expected)


MANY_OUTPUTS = (detector, shared_tensor, given_codes, moved_outputs, shared_head, split)


@pytest.mark.parametrize("network", MANY_OUTPUTS, ids=lambda network: network.__name__)
@pytest.mark.parametrize("seed", [0, 1])
def test_each_output_has_the_same_bits(
    network: Callable[[Net], tuple[str, ...]], seed: int, tmp_path: Path
) -> None:
    net = Net(seed=seed)
    names = network(net)
    model, x = net.model(*names), net.images()
    onnx.save(model, tmp_path / "qdq.onnx")
    built = onnxruntime.build(tmp_path / "qdq.onnx", tmp_path / "engine.onnx")
    with OnnxRuntimeEngine(built, threads=1) as engine:
        assert engine.output_names == names
        found = engine.infer(x)
        np.testing.assert_array_equal(engine.run(x), found[names[0]])
    expected = literal_outputs(model, x)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        assert len(np.unique(value)) > 4
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    integer, total = int8_kernels(built)
    assert integer == total - (network is given_codes)  # int8 codes that are given out stay as they are


def test_body_of_a_condition_reads_what_is_lowered(tmp_path: Path) -> None:
    """A tensor, a constant and a layer that only the branches of an If read."""
    net = Net()
    y = net.conv(net.quantized(net.node("Relu", net.conv(net.quantized("input"), 4))), 4)
    shift = net.constant(np.float32(1))
    side = net.node("Relu", y)
    total = net.node("ReduceSum", "input", keepdims=0)
    condition = net.node("Greater", total, net.constant(np.float32(0)))
    branches = {
        key: onnx.helper.make_graph(
            [onnx.helper.make_node(kind, [side, shift], [key])], key, [], [onnx.ValueInfoProto(name=key)]
        )
        for key, kind in (("then_branch", "Add"), ("else_branch", "Sub"))
    }
    out = net.quantized(net.node("If", condition, **branches))
    model, x = net.model(net.quantized(y), out), net.images()
    np.testing.assert_array_equal(run_lowered(model, x, tmp_path), literal(model, x))
    lowered = lower_qdq(model)
    for name, value in literal_outputs(model, x).items():
        np.testing.assert_array_equal(literal_outputs(lowered, x)[name], value)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_convolutions_run_as_integers(network: Callable[[Net], str], tmp_path: Path) -> None:
    net = Net()
    onnx.save(net.model(network(net)), tmp_path / "qdq.onnx")
    built = onnxruntime.build(tmp_path / "qdq.onnx", tmp_path / "engine.onnx")
    assert int8_kernels(built) == NETWORKS[network]


@pytest.mark.parametrize("network", [neck, upsampled], ids=lambda network: network.__name__)
def test_a_resize_to_nearest_pixels_works_on_codes(network: Callable[[Net], str]) -> None:
    """Of pairs only that of the input and that of the end are left, so that nothing is converted in between."""
    net = Net()
    lowered = lower_qdq(net.model(network(net)))
    resize = next(node for node in lowered.graph.node if node.op_type == "Resize")
    makers = {name: node.op_type for node in lowered.graph.node for name in node.output}
    assert makers[resize.input[0]] in {"QLinearConv", "Clip"}
    assert (operators(lowered)["QuantizeLinear"], operators(lowered)["DequantizeLinear"]) == (1, 1)


@pytest.mark.parametrize("signed", [False, True], ids=["0..127", "-128..127"])
@pytest.mark.parametrize("kind", ["quantized", "float", "depthwise"])
def test_largest_products_do_not_saturate(signed: bool, kind: str, tmp_path: Path) -> None:
    """All codes and weights at their ends, against sums in int64."""
    channels, size = 64, 6
    net = Net((channels, size, size))
    x = np.where(net.rng.random((2, channels, size, size)) < 0.9, 100.0, -100.0).astype(np.float32)
    source = net.quantized("input" if signed else net.node("Relu", "input"))
    group = channels if kind == "depthwise" else 1
    codes = np.full((channels, channels // group, 3, 3), 127, np.int8)
    codes[1::2] = -127
    codes[3::4, :, ::2] = 127
    result = net.conv(source, channels, codes=codes, bias=False, group=group)
    out_scale = {"quantized": 4.0, "depthwise": 2.0**-4}.get(kind)
    if out_scale is not None:
        result = net.quantized(result, out_scale)

    x_codes = np.where(x > 0, 127, -128 if signed else 0).astype(np.int64)
    padded = np.pad(x_codes, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    formula = "nchwij,cij->nchw" if group > 1 else "nkhwij,ckij->nchw"
    sums = np.einsum(formula, windows, codes[:, 0].astype(np.int64) if group > 1 else codes.astype(np.int64))
    exact = sums * 2.0**-4 * (WEIGHT_SCALE * 2.0 ** (np.arange(channels) % 3))[:, None, None]
    if out_scale is not None:
        exact = np.clip(np.rint(exact / out_scale), -128, 127) * out_scale
    np.testing.assert_array_equal(run_lowered(net.model(result), x, tmp_path), exact.astype(np.float32))


@pytest.mark.parametrize("seed", range(5))
def test_any_scale_and_bias_move_codes_at_borders_only(seed: int, tmp_path: Path) -> None:
    """A code may differ by one, and only where the exact value lies at the border of two codes."""
    net = Net(seed=seed, exact=False)
    x = net.quantized(net.node("Relu", "input"))
    y = net.conv(x, 8)
    out = net.quantized(y, 2**-2)
    model, images = net.model(out), net.images(8)
    scale = net._scales[out]
    codes = np.rint(literal(model, images) / scale)
    lowered = np.rint(run_lowered(model, images, tmp_path) / scale)
    different = codes != lowered
    assert np.abs(codes - lowered).max() <= 1
    # Rounding the bias moves a value by at most s_x·s_w/2 of s_y; the float sums add less than that.
    unit = net._scales[x] * 4 * WEIGHT_SCALE * 1.2 / scale
    exact = literal(net.model(y), images) / scale
    distance = np.abs(exact - np.floor(exact) - 0.5)
    assert np.all(distance[different] <= unit)
    assert different.mean() < 0.01


def test_nonnegative_tensors_get_the_fast_kernel() -> None:
    """Codes 0..127 beside int8 weights; the signed input takes uint8 weights around 128."""
    net = Net()
    lowered = lower_qdq(net.model(relu(net)))
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in lowered.graph.initializer}
    first, second = (node for node in lowered.graph.node if node.op_type == "QLinearConv")
    for node, zero_point, weights in ((first, 128, np.uint8), (second, 0, np.int8)):
        assert constants[node.input[2]] == zero_point
        assert constants[node.input[3]].dtype == weights


def test_empty_channel_keeps_its_bias(tmp_path: Path) -> None:
    """Weights of zero with scale 1: the bias must not be rounded to whole input scales."""
    net = Net()
    x = net.quantized(net.node("Relu", "input"))
    codes = net.constant(np.zeros((2, 3, 1, 1), np.int8))
    scales, zeros = net.constant(np.ones(2, np.float32)), net.constant(np.zeros(2, np.int8))
    weight = net.node("DequantizeLinear", codes, scales, zeros, axis=0)
    bias = net.constant(np.array([0.3, -0.001], np.float32))
    model = net.model(net.quantized(net.node("Conv", x, weight, bias), 2**-12))
    np.testing.assert_array_equal(run_lowered(model, net.images(), tmp_path), literal(model, net.images()))


def test_codes_go_through_relu_clip_and_pool() -> None:
    net = Net()
    found = operators(lower_qdq(net.model(maxpool(net))))
    assert "Relu" not in found
    assert found["QLinearConv"] == 2
    assert found["QuantizeLinear"] == 1  # the input's


def test_products_of_activations_run_as_integers() -> None:
    net = Net()
    lowered = operators(lower_qdq(net.model(scores(net))))
    assert (lowered["MatMul"], lowered["MatMulIntegerToFloat"]) == (0, 2)  # the convolution is the other one


def test_network_without_pairs_keeps_its_operators() -> None:
    net = Net()
    model = net.model(net.node("Relu", "input"))
    assert operators(lower_qdq(model)) == operators(model)


def test_foreign_pairs_stay() -> None:
    """A uint8 pair is no TensorRT pair: left alone rather than guessed at."""
    net = Net()
    names = net.constant(np.float32(0.5)), net.constant(np.array(3, np.uint8))
    x = net.node("DequantizeLinear", net.node("QuantizeLinear", "input", *names), *names)
    model = net.model(net.node("Relu", x))
    images = net.images()
    np.testing.assert_array_equal(literal(lower_qdq(model), images), literal(model, images))


def test_model_is_not_changed() -> None:
    model = small_network()
    before = model.SerializeToString()
    lower_qdq(model)
    assert model.SerializeToString() == before


def test_bias_beyond_int32_stays_exact(tmp_path: Path) -> None:
    """A bias that int32 can't hold in units of s_x·s_w goes to the kernel with a float bias."""
    net = Net()
    x = net.quantized(net.node("Relu", "input"))
    net._scales[x] *= 2.0**21  # the bias of this convolution comes out 2^21 times as large
    model = net.model(net.quantized(net.conv(x, 4), 2.0**12))
    found = operators(lower_qdq(model))
    assert (found["QLinearConv"], found["MatMulIntegerToFloat"]) == (0, 1)
    images = net.images()
    np.testing.assert_array_equal(run_lowered(model, images, tmp_path), literal(model, images))


def test_a_scale_that_its_bias_raised_still_gives_an_integer_bias(tmp_path: Path) -> None:
    """Raised to hold a bias of 2^30 steps, a scale in float32 may leave it a few steps more."""
    net = Net()
    x = net.quantized(net.node("Relu", "input"))
    weight, scales = net.weight(net.rng.integers(-127, 128, (2, 3, 1, 1)).astype(np.int8))
    bias = net.constant((net._scales[x] * scales * 2.0**30 * (1 + 2.0**-23)).astype(np.float32))
    model = net.model(net.quantized(net.node("Conv", x, weight, bias), 2.0**12))
    assert operators(lower_qdq(model))["QLinearConv"] == 1
    np.testing.assert_array_equal(run_lowered(model, net.images(), tmp_path), literal(model, net.images()))
