"""Learned ranges and the ranges of weights: values and gradients by hand."""

import numpy as np
import pytest
import torch

from converter.qat.backends import backend_from_name
from converter.qat.learned_ranges import ActivationRange, WeightRange
from converter.qat.quantizers import QuantizerSpec, amax_of
from converter.quantize.qdq import quantized_weight
from zscgan_common.int32_bias import LARGEST_BIAS

pytestmark = pytest.mark.slow


def activation(amax: float, bits: int = 4, *, learned: bool = True) -> ActivationRange:
    spec = QuantizerSpec(bits)
    made = ActivationRange(backend_from_name("modelopt")(spec), spec, amax, learned)
    made.refresh()
    return made


def test_the_gradient_of_a_learned_range_by_hand() -> None:
    made = activation(7.0)  # steps of 1
    x = torch.tensor([2.3, -1.6, 9.0, -20.0], requires_grad=True)
    y = made(x)
    assert y.tolist() == [2.0, -2.0, 7.0, -8.0]
    y.backward(torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 10.0, 0.0, 0.0]
    # Inside: y - x. Outside: y, which grows in proportion to the range.
    expected = 1 * (2 - 2.3) + 10 * (-2 + 1.6) + 100 * 7 + 1000 * -8
    assert made.log_ratio.grad is not None
    assert made.log_ratio.grad.item() == pytest.approx(expected, rel=1e-6)


def test_outside_of_the_range_the_gradient_is_the_real_slope() -> None:
    made, step = activation(3.0, bits=8), 1e-3
    x = torch.tensor([5.0, -4.0])
    made(x).sum().backward()
    with torch.no_grad():
        made.log_ratio += step
        made.refresh()
        slope = float((made(x).sum() - (3.0 - 3.0 * 128 / 127)) / step)
    assert made.log_ratio.grad is not None
    assert made.log_ratio.grad.item() == pytest.approx(slope, rel=1e-2)


def test_the_gradient_does_not_depend_on_the_memory_layout() -> None:
    gradients = []
    for layout in (torch.contiguous_format, torch.channels_last):
        made = activation(1.5)
        generator = torch.Generator().manual_seed(0)
        x, weight = (torch.randn(2, 3, 4, 4, generator=generator) for _ in range(2))
        x = x.to(memory_format=layout).requires_grad_()
        (made(x) * weight).sum().backward()
        assert made.log_ratio.grad is not None
        assert x.grad is not None
        gradients.append((made.log_ratio.grad, x.grad))
    torch.testing.assert_close(gradients[0][0], gradients[1][0])
    assert torch.equal(gradients[0][1], gradients[1][1])


def test_learned_and_frozen_ranges_give_the_same_values_and_input_gradients() -> None:
    x = torch.linspace(-3, 3, 50)
    results = []
    for learned in (True, False):
        leaf = x.clone().requires_grad_()
        y = activation(2.0, learned=learned)(leaf)
        y.square().sum().backward()
        results.append((y.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(*(grad for _, grad in results))


def test_the_range_that_was_learned_is_the_quantizers() -> None:
    made = activation(2.0)
    assert amax_of(made.quantizer).item() == 2.0
    with torch.no_grad():
        made.log_ratio.fill_(0.5)
    made.refresh()
    assert amax_of(made.quantizer).item() == pytest.approx(2.0 * np.exp(0.5))
    assert made.scale.item() == pytest.approx(2.0 * np.exp(0.5) / 7)


@pytest.mark.parametrize("channels_of_bias", [4, 8, 1])
def test_a_weights_range_is_that_of_the_writer(channels_of_bias: int) -> None:
    """Also for a channel of zeros and a bias that needs a larger scale, of groups that share one, or broadcast."""
    weight = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    weight[1] = 0
    bias = torch.ones(channels_of_bias)
    bias[0] = 3e7
    input_scale = 1e-3
    smallest = bias.numpy() / (input_scale * LARGEST_BIAS)
    smallest = smallest.reshape(-1, 4).max(0) if channels_of_bias > 1 else smallest.repeat(4)
    codes, scale = quantized_weight(weight.numpy(), 0, torch.from_numpy(smallest))
    assert scale[0] == pytest.approx(3e7 / (input_scale * 2**30))
    spec = QuantizerSpec(8, narrow=True, axis=0, shape=(4, 1, 1, 1))
    made = WeightRange(backend_from_name("modelopt")(spec), spec)
    made.refresh(weight, [(bias, torch.tensor(input_scale))])
    torch.testing.assert_close(amax_of(made.quantizer).flatten() / 127, torch.from_numpy(scale))
    expected = codes.astype(np.float32) * scale[:, None, None, None]
    torch.testing.assert_close(made(weight), torch.from_numpy(expected))
