"""Plans written out by hand, for networks from PyTorch and for ONNX graphs that exporters could write."""

import onnx
import onnx.parser
import pytest
from torch import nn

from converter.quantize.placement import QuantizationPlan, place_quantizers
from tests.converter import networks
from tests.converter.reference import graph_of


def activations(plan: QuantizationPlan) -> list[str]:
    """One line a pair: tensor -> consumers, and the range where it is that of another tensor."""
    return [
        f"{pair.tensor} -> {' '.join(pair.consumers)}"
        + (f" [{pair.range_of}]" if pair.range_of != pair.tensor else "")
        for pair in plan.activations
    ]


def weights(plan: QuantizationPlan) -> list[str]:
    return [f"{weight.tensor} {weight.axis} {weight.consumer}" for weight in plan.weights]


def parsed(text: str) -> onnx.ModelProto:
    """A model from ONNX's text form with the types of all values inferred."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> agraph {text}')
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


EXPECTED: list[tuple[type[nn.Module], list[str]]] = [
    (
        networks.Residual,
        [
            "input -> conv2d",
            "relu -> max_pool2d [max_pool2d]",  # the pool runs on integers
            "max_pool2d -> conv2d_1 add_60",  # convolution and identity share one pair
            "relu_1 -> conv2d_2",
            "relu_2 -> conv2d_3 conv2d_5",
            "relu_3 -> conv2d_4",
            "conv2d_5 -> add_121",  # the shortcut's convolution; conv2d_4 is on the longer path
            "relu_4 -> mean",
            "view -> logits",
        ],
    ),
    (
        networks.Branches,
        [
            "input -> conv2d",
            "relu -> conv2d_1 conv2d_2 max_pool2d",  # the pool joins the convolutions' pair
            "relu_1 -> cat conv2d_4 [cat]",  # its convolution takes the scale of the Concat
            "relu_2 -> cat [cat]",
            "max_pool2d -> cat [cat]",
            "cat -> conv2d_3",
            "relu_4 -> add_60",  # conv2d_3 and its ReLU are on the longer path
            "add_60 -> mean",
            "mean -> logits",
        ],
    ),
    (
        networks.Squeeze,
        [
            "input -> conv2d",
            "silu -> conv2d_1 add_70",
            "mean -> conv2d_2",  # not hardswish, which the Mul reads too
            "relu -> conv2d_3",
            "mul_28 -> conv2d_4",
            "add_70 -> mean_1",
            "mean_1 -> logits",
        ],
    ),
    (
        networks.Upsampling,
        [
            "input -> conv2d",
            "relu -> convolution",
            "relu_1 -> convolution_1",
            "relu_2 -> mean",
            "mean -> logits",
        ],
    ),
    (networks.Perceptron, ["view -> linear", "relu -> linear_1", "relu_1 -> logits"]),
    (networks.Sequence, ["transpose -> val_7", "relu -> linear_1"]),
    (
        networks.PreActivation,
        ["relu -> conv2d", "relu_1 -> conv2d_1", "mul_18 -> mean", "mean -> logits"],
    ),
    (
        networks.Shared,
        ["input -> conv2d", "relu -> conv2d_1", "relu_1 -> conv2d_2", "relu_2 -> mean", "mean -> logits"],
    ),
]


@pytest.mark.parametrize(("network", "expected"), EXPECTED)
def test_activations_of_small_networks(network: type[nn.Module], expected: list[str]) -> None:
    plan = place_quantizers(graph_of(network).onnx)
    assert activations(plan) == expected
    assert plan == place_quantizers(graph_of(network).onnx)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (
            networks.Upsampling,
            [
                "conv.weight 0 conv2d",
                "up1.weight 1 convolution",
                "up2.weight 1 convolution_1",
                "fc.weight 0 logits",
            ],
        ),
        (networks.Sequence, ["val_6 1 val_7", "val_16 1 linear_1"]),
        (
            networks.Shared,
            [
                "conv.weight 0 conv2d",
                "conv.weight 0 conv2d_1",
                "conv.weight_1 0 conv2d_2",
                "fc.weight 0 logits",
            ],
        ),
    ],
)
def test_weights_of_small_networks(network: type[nn.Module], expected: list[str]) -> None:
    assert weights(place_quantizers(graph_of(network).onnx)) == expected


def test_observed_names_each_range_once() -> None:
    plan = place_quantizers(graph_of(networks.Branches).onnx)
    assert plan.observed == ("input", "relu", "cat", "relu_4", "add_60", "mean")


def test_gemm_and_matmul_axes_follow_the_output() -> None:
    plan = place_quantizers(
        parsed("""(float[batch, 4] x) => (float[batch, 2] y)
        <float[4, 3] a = {0,1,2,3,4,5,6,7,8,9,10,11}, float[3, 3] b = {0,1,2,3,4,5,6,7,8},
        float[3, 2] c = {0,1,2,3,4,5}>
        { h = MatMul(x, a)  i = Gemm <transB = 1> (h, b)  y = Gemm(i, c) }""")
    )
    assert weights(plan) == ["a 1 h", "b 0 i", "c 1 y"]


def test_computed_weights_and_products_of_activations_are_left_out() -> None:
    plan = place_quantizers(
        parsed("""(float[2, 2] x) => (float[2, 2] y)
        <float[2, 2] a = {0,1,2,3}>
        { w = Relu(a)  h = MatMul(x, w)  i = MatMul(h, x)  y = Gemm(i, h) }""")
    )
    assert plan == QuantizationPlan((), ())


def test_undeclared_values_are_left_out() -> None:
    text = """(float[2, 2] x) => (float[2, 2] y) <float[2, 2] a = {0,1,2,3}>
    { h = Relu(x)  y = MatMul(h, a) }"""
    model = parsed(text)
    assert activations(place_quantizers(model)) == ["h -> y"]
    del model.graph.value_info[:]
    assert place_quantizers(model) == QuantizationPlan((), ())


def test_values_that_no_image_changes_are_left_out() -> None:
    plan = place_quantizers(
        parsed("""(float[n, 2] x) => (float[n, 2] y)
        <float[2, 2] w = {0,1,2,3}, int64[2] size = {2, 2}>
        { queries = ConstantOfShape(size)  q = MatMul(queries, w)  s = Softmax(q)  h = MatMul(x, w)
        y = MatMul(h, s) }""")
    )
    assert activations(plan) == ["x -> h"]


CONVOLUTION = """<float[2, 2, 1, 1] w = {0,1,2,3}, int64[2] space = {2, 3}, float[4] twice = {1, 1, 2, 2},
    float[1, 2, 1, 1] bins = {0,1}, int64[4] grouped = {0, 2, 1, -1}>"""


def convolutional(body: str, outputs: str = "float[n, 2, h, v] y") -> list[str]:
    """Planned activations of a body of nodes over x [1, 2, 4, 4] with a 1x1 weight w."""
    return activations(
        place_quantizers(parsed(f"(float[1, 2, 4, 4] x) => ({outputs}) {CONVOLUTION} {{ {body} }}"))
    )


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # The same Add with its operands the other way round.
        ("a = Conv(x, w) y = Add(a, x)", ["x -> a y"]),
        ("a = Conv(x, w) y = Add(x, a)", ["x -> a y"]),
        # Both operands are convolutions: the later one on equally long paths, the longer path otherwise.
        ("a = Conv(x, w) b = Conv(x, w) y = Add(b, a)", ["x -> a b", "a -> y"]),
        (
            "a = Conv(x, w) r = Relu(a) b = Conv(r, w) c = Conv(x, w) y = Add(c, b)",
            ["x -> a c", "r -> b", "c -> y"],
        ),
        # The convolution's output is read elsewhere too: nothing fuses.
        ("a = Conv(x, w) r = Relu(a) b = Add(a, x) y = Mul(b, r)", ["x -> a"]),
        # Past a ReLU it fuses, unless that is read elsewhere too.
        ("a = Conv(x, w) r = Relu(a) y = Add(r, x)", ["x -> a y"]),
        ("a = Conv(x, w) r = Relu(a) b = Add(r, x) y = Mul(b, r)", ["x -> a"]),
        # A broadcast operand is no residual branch.
        ("a = Conv(x, w) m = ReduceMean(x, space) y = Add(a, m)", ["x -> a"]),
        ("a = Conv(x, w) y = Add(a, a)", ["x -> a"]),
        # A sum of three: two Adds, each with its own convolution.
        (
            "a = Conv(x, w) b = Conv(x, w) c = Conv(x, w) d = Add(a, b) y = Add(d, c)",
            ["x -> a b c", "a -> d", "d -> y"],
        ),
    ],
)
def test_residual_adds(body: str, expected: list[str]) -> None:
    assert convolutional(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("p = MaxPool <kernel_shape=[2,2]> (x) y = Conv(p, w)", ["x -> p [p]", "p -> y"]),
        # Two pools in a row share the range of the last.
        (
            "p = MaxPool <kernel_shape=[2,2]> (x) q = MaxPool <kernel_shape=[2,2]> (p) y = Conv(q, w)",
            ["x -> p [q]", "p -> q [q]", "q -> y"],
        ),
        # The pool's input has a quantizer: both pools take its range.
        (
            "a = Conv(x, w) p = MaxPool <kernel_shape=[2,2]> (x) q = MaxPool <kernel_shape=[2,2]> (p)"
            "b = Conv(p, w) c = Conv(q, w) d = ReduceMean(a, space) e = Add(b, d) y = Add(c, d)",
            ["x -> a p", "p -> q b [x]", "q -> c [x]"],
        ),
        # Something reads the pool's result as float.
        ("p = MaxPool <kernel_shape=[2,2]> (x) a = Conv(p, w) y = Mul(p, a)", ["p -> a"]),
        ("p = MaxPool <kernel_shape=[2,2]> (x) y = Relu(p)", []),
    ],
)
def test_max_pools(body: str, expected: list[str]) -> None:
    assert convolutional(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("p = AveragePool <kernel_shape=[2,2]> (x) y = Conv(p, w)", ["x -> p", "p -> y"]),
        ("p = GlobalAveragePool(x) y = Conv(p, w)", ["x -> p", "p -> y"]),
        ("p = ReduceMean(x, space) s = Identity(p) y = Conv(s, w)", ["x -> p", "s -> y"]),
        # No integer layer follows.
        ("p = AveragePool <kernel_shape=[2,2]> (x) y = Relu(p)", []),
        ("y = GlobalAveragePool(x)", []),
        # Squeeze and excitation: the pool's input is read as float; but where a convolution reads it, it joins.
        ("p = GlobalAveragePool(x) c = Conv(p, w) y = Mul(x, c)", ["p -> c"]),
        ("a = Conv(x, w) p = GlobalAveragePool(x) c = Conv(p, w) y = Mul(a, c)", ["x -> a p", "p -> c"]),
    ],
)
def test_average_pools(body: str, expected: list[str]) -> None:
    assert convolutional(body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Relu(x) c = Concat <axis=2> (a, x) y = Conv(c, w)", ["x -> c [c]", "a -> c [c]", "c -> y"]),
        # Nested: the outer range goes all the way in.
        (
            "a = Relu(x) b = Concat <axis=2> (a, x) c = Concat <axis=2> (b, a) y = Conv(c, w)",
            ["x -> b [c]", "a -> b c [c]", "b -> c [c]", "c -> y"],
        ),
        # Nested, and the inner one has a convolution, which takes the outer range too.
        (
            "a = Relu(x) b = Concat <axis=2> (a, x) d = Conv(b, w) c = Concat <axis=2> (b, a) e = Conv(c, w)"
            "y = Concat <axis=2> (d, e)",
            ["x -> b [c]", "a -> b c [c]", "b -> d c [c]", "c -> e"],
        ),
        # A max pool in between carries the range on.
        (
            "a = Relu(x) p = MaxPool <kernel_shape=[2,2]> (a) c = Concat <axis=2> (p, p) y = Conv(c, w)",
            ["a -> p [c]", "p -> c [c]", "c -> y"],
        ),
        # Channel shuffle: the pair stays next to the convolution.
        (
            "a = Relu(x) c = Concat <axis=2> (a, x) t = Transpose <perm=[0,1,3,2]> (c) y = Conv(t, w)",
            ["t -> y"],
        ),
        # Its result is read as float too, or one of its inputs is a constant.
        ("a = Relu(x) c = Concat <axis=2> (a, x) b = Conv(c, w) y = Mul(c, b)", ["c -> b"]),
        (
            "m = ReduceMean(x, space) c = Concat <axis=0> (m, w) b = Conv(c, w) d = ReduceMean <keepdims=0> (b) "
            "y = Mul(x, d)",
            ["c -> b"],
        ),
    ],
)
def test_concats(body: str, expected: list[str]) -> None:
    assert convolutional(body) == expected


def silu(name: str, tensor: str) -> str:
    """SiLU of a convolution of ``tensor``, as exporters write it."""
    return f"{name}_c = Conv({tensor}, w) {name}_s = Sigmoid({name}_c) {name} = Mul({name}_c, {name}_s) "


UP = """Resize <mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"> ({}, , twice)"""
LINEAR = """Resize <mode="linear"> ({}, , twice)"""


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # No pair stands between the convolution, its Sigmoid and their Mul.
        (silu("a", "x") + "y = Conv(a, w)", ["x -> a_c", "a -> y"]),
        # The bottleneck of YOLO: the Add fuses into the last SiLU, and its other branch is integer.
        (
            silu("a", "x") + silu("b", "a") + silu("d", "b") + "s = Add(a, d) y = Conv(s, w)",
            ["x -> a_c", "a -> b_c s", "b -> d_c", "s -> y"],
        ),
        # LeakyRelu alike, and an activation that is one node.
        ("a = Conv(x, w) l = LeakyRelu(a) s = Add(x, l) y = Conv(s, w)", ["x -> a s", "s -> y"]),
        ("a = Conv(x, w) h = HardSwish(a) s = Add(h, x) y = Conv(s, w)", ["x -> a s", "s -> y"]),
        # Both branches are read elsewhere, so that nothing fuses: by integer layers both, and one of them as float.
        (
            silu("a", "x") + silu("b", "a") + "s = Add(a, b) t = Conv(b, w) u = Conv(s, w) y = Mul(t, u)",
            ["x -> a_c", "a -> b_c s", "b -> s t", "s -> u"],
        ),
        (silu("a", "x") + "s = Add(a, x) t = Conv(s, w) y = Mul(t, a)", ["x -> a_c", "s -> t"]),
        # What is no activation of one convolution.
        ("a = Conv(x, w) b = Conv(x, w) m = Mul(a, b) s = Add(x, m) y = Conv(s, w)", ["x -> a b", "s -> y"]),
    ],
)
def test_silu(body: str, expected: list[str]) -> None:
    """The identity comes from a pair (TensorRT's guide; NVIDIA/TensorRT #3542), and none cuts a fused kernel."""
    assert convolutional(body) == expected


def test_an_add_behind_silu_leaves_with_its_convolution() -> None:
    text = silu("a", "x") + silu("b", "a") + "s = Add(a, b) y = Conv(s, w)"
    model = parsed(f"(float[1, 2, 4, 4] x) => (float[n, 2, h, v] y) {CONVOLUTION} {{ {text} }}")
    assert activations(place_quantizers(model, ["b_c"])) == ["x -> a_c", "s -> y"]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        # To the nearest pixel: one scale on both sides, as with a pool.
        (f"a = Relu(x) u = {UP.format('a')} y = Conv(u, w)", ["a -> u [u]", "u -> y"]),
        # The neck: upsampled and lateral, a Concat with one scale for all.
        (
            f"a = Conv(x, w) p = MaxPool <kernel_shape=[2,2], strides=[2,2]> (a) b = Relu(p) u = {UP.format('b')}"
            "c = Concat <axis=2> (u, a) y = Conv(c, w)",
            ["x -> a", "a -> c [c]", "b -> u [c]", "u -> c [c]", "c -> y"],
        ),
        # Averages of neighbours have the range of these; theirs could be smaller.
        (f"a = Relu(x) u = {LINEAR.format('a')} y = Conv(u, w)", ["a -> u", "u -> y [a]"]),
        (
            f"a = Relu(x) u = {LINEAR.format('a')} c = Concat <axis=2> (u, u) y = Conv(c, w)",
            ["a -> u", "u -> c [c]", "c -> y"],
        ),
        # The top-down way of a pyramid: the Add fuses into the lateral convolution.
        (
            f"a = Conv(x, w) r = Relu(a) u = {UP.format('r')} l = Conv(u, w) s = Add(u, l) y = Conv(s, w)",
            ["x -> a", "r -> u [u]", "u -> l s", "s -> y"],
        ),
        # Between floats, at the end and of the input itself: nothing.
        (f"a = Conv(x, w) u = {UP.format('a')} y = Tanh(u)", ["x -> a"]),
        (f"a = Conv(x, w) y = {LINEAR.format('a')}", ["x -> a"]),
        (f"u = {LINEAR.format('x')} y = Conv(u, w)", ["u -> y"]),
        # Cubic weights may be negative, so the result leaves the range of the input.
        ("""a = Relu(x) u = Resize <mode="cubic"> (a, , twice) y = Conv(u, w)""", ["u -> y"]),
    ],
)
def test_resizes(body: str, expected: list[str]) -> None:
    """ModelOpt 0.47 quantizes the input of each Resize; in TensorRT a Resize is INT8 between DQ and Q."""
    assert convolutional(body) == expected


def test_the_neck_of_a_detector() -> None:
    """One scale for what a Concat joins and for who else reads that, as the Guidance in yolo_deepstream asks for."""
    pools = "".join(
        f"{name} = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> ({before}) "
        for name, before in ("pa", "qp", "rq")
    )
    pyramid = silu("a", "x") + pools + "c = Concat <axis=2> (a, p, q, r) y = Conv(c, w)"
    assert convolutional(pyramid) == [
        "x -> a_c", "a -> p c [c]", "p -> q c [c]", "q -> r c [c]", "r -> c [c]", "c -> y",
    ]  # fmt: skip
    c2f = (
        silu("a", "x")
        + "f, g = Split <axis=2, num_outputs=2> (a) "
        + silu("b", "g")
        + silu("d", "b")
        + "s = Add(g, d) c = Concat <axis=2> (f, g, s) y = Conv(c, w)"
    )
    assert convolutional(c2f) == [
        "x -> a_c", "f -> c [c]", "g -> b_c s c [c]", "b -> d_c", "s -> c [c]", "c -> y",
    ]  # fmt: skip


def test_two_concats_of_one_tensor_have_a_range_each() -> None:
    body = "a = Relu(x) b = Concat <axis=2> (a, x) d = Conv(b, w) c = Concat <axis=3> (a, x) e = Conv(c, w)"
    outputs = "float[n, 2, h, v] d, float[n, 2, i, j] e"
    assert convolutional(body, outputs) == [
        "x -> b [b]", "x -> c [c]", "a -> b [b]", "a -> c [c]", "b -> d", "c -> e",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a = Conv(x, w) p = Softmax <axis=1> (a) y = Conv(p, bins)", ["x -> a"]),
        (
            "a = Conv(x, w) t = Transpose <perm=[0,2,1,3]> (a) p = Softmax <axis=2> (t)"
            "r = Transpose <perm=[0,2,1,3]> (p) y = Conv(r, bins)",
            ["x -> a"],
        ),
        # Something between them: no mean of the bins.
        ("a = Conv(x, w) p = Softmax <axis=1> (a) q = Mul(p, x) y = Conv(q, bins)", ["x -> a", "q -> y"]),
    ],
)
def test_the_mean_over_bins_stays_in_float(body: str, expected: list[str]) -> None:
    """Ultralytics leaves DFL in float when it quantizes by ModelOpt (#26171); ModelOpt a product of one column."""
    assert convolutional(body, "float[n, 1, h, v] y") == expected
