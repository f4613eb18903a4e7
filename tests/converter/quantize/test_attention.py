"""Which products of two activations are quantized: ModelOpt's choices, of which each was seen in its own result.

NVIDIA's ModelOpt 0.47 was run once by hand (``modelopt.onnx.quantization.quantize``, INT8, "max") on torchvision's
VisionTransformer of 17 tokens and of 1025, with heads of 32 and of 8, on its SwinTransformer, and on an attention with
a computed mask. Of their MatMuls, with weights and without, it quantized the operands that ``quantize.placement``
does; Softmax and GELU stay float in both. It differs in what is no product: it also quantizes the residual branch of a
sum behind a MatMul and the input of a layer norm behind one, and leaves a classifier with a single row in float.
"""

import pytest

from converter.quantize.placement import place_quantizers
from tests.converter.quantize.test_placement import activations, parsed


def planned(body: str, tokens: int = 32, head: int = 16, extra: str = "") -> list[str]:
    """The planned activations of a body over q and v, [batch, 2, tokens, head], and k, whose last axes are swapped."""
    shape = f"float[batch, 2, {tokens}, {head}]"
    inputs = f"{shape} q, float[batch, 2, {head}, {tokens}] k, {shape} v{extra}"
    constants = "<float[1] c = {0.5}, float[1, 1, 1, 1] m = {1}>"
    return activations(place_quantizers(parsed(f"({inputs}) => ({shape} y) {constants} {{ {body} }}")))


WHOLE = ["q -> s", "k -> s", "v -> y", "p -> y"]


@pytest.mark.parametrize(
    "body",
    [
        "s = MatMul(q, k) p = Softmax <axis = -1> (s) y = MatMul(p, v)",
        "s = MatMul(q, k) t = Mul(s, c) p = Softmax <axis = -1> (t) y = MatMul(p, v)",
        # The bias of relative places is a constant.
        "s = MatMul(q, k) t = Add(s, m) p = Softmax <axis = -1> (t) y = MatMul(p, v)",
    ],
)
def test_attention_is_quantized(body: str) -> None:
    assert planned(body) == WHOLE
    assert planned(body, tokens=512) == WHOLE


@pytest.mark.parametrize(
    "body",
    [
        "s = MatMul(q, k) p = Softmax <axis = -1> (s) y = MatMul(p, v)",
        "s = MatMul(q, k) t = Div(s, c) u = Add(t, m) p = Softmax <axis = -1> (u) y = MatMul(p, v)",
    ],
)
def test_attention_over_many_tokens_stays_float(body: str) -> None:
    assert planned(body, tokens=513) == []


def test_a_mask_of_the_input_keeps_attention_in_float() -> None:
    mask = ", float[batch, 2, 32, 32] a"
    body = "s = MatMul(q, k) t = Add({mask}) p = Softmax <axis = -1> (t) y = MatMul(p, v)"
    assert planned(body.format(mask="s, a"), extra=mask) == []
    assert planned(body.format(mask="a, s"), extra=mask) == []
    # Scaled in between, it is another pattern.
    scaled = "s = MatMul(q, k) r = Mul(s, c) t = Add(r, a) p = Softmax <axis = -1> (t) y = MatMul(p, v)"
    assert planned(scaled, extra=mask) == WHOLE


def test_small_products_stay_float() -> None:
    body = "s = MatMul(q, k) p = Softmax <axis = -1> (s) y = MatMul(p, v)"
    assert planned(body, head=15) == []  # 15 summands in the first, 15 columns in the second
    assert planned(body, tokens=15) == []
    assert planned(body, tokens=1) == []


def test_a_product_without_softmax_is_quantized() -> None:
    assert planned("s = MatMul(q, k) y = MatMul(s, v)", tokens=1024) == [
        "q -> s",
        "k -> s",
        "v -> y",
        "s -> y",
    ]


def test_a_product_of_a_value_with_itself_has_one_pair() -> None:
    text = "(float[batch, 16, 16] x) => (float[batch, 16, 16] y) { y = MatMul(x, x) }"
    assert activations(place_quantizers(parsed(text))) == ["x -> y"]


def test_an_excluded_product_stays_float() -> None:
    text = "(float[batch, 16, 16] x) => (float[batch, 16, 16] y) { y = MatMul(x, x) }"
    assert activations(place_quantizers(parsed(text), excluded=["y"])) == []
