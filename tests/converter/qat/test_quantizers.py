"""Both backends make the quantizers that the Q/DQ model has, and say what to install where they can't."""

import sys
from functools import cache

import numpy as np
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from converter.errors import QATError
from converter.qat.backends import backend_from_name
from converter.qat.learned_ranges import quantized
from converter.qat.options import BACKENDS
from converter.qat.quantizers import Backend, QuantizerSpec, amax_of
from converter.quantize.fake_quant import levels_of, rounded_to_scale, rounded_weight
from converter.quantize.qdq import qdq_from_onnx
from tests.converter.qat import double
from tests.converter.qat.cases import case

pytestmark = pytest.mark.slow


@pytest.fixture(params=[*BACKENDS, "pytorch-quantization on a GPU"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Backend:
    name, _, gpu = request.param.partition(" ")
    double.install(monkeypatch, cuda=bool(gpu))
    return backend_from_name(name)


def some_values(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_four_bits_by_hand(backend: Backend) -> None:
    quantizer = backend(QuantizerSpec(num_bits=4))
    amax_of(quantizer).fill_(7.0)
    x = torch.tensor([-9.0, -7.6, -0.5, 0.5, 1.5, 7.0, 7.6, 100.0])
    assert quantizer(x).tolist() == [-8.0, -8.0, 0.0, 0.0, 2.0, 7.0, 7.0, 7.0]  # halves to even


def test_unsigned_has_twice_the_levels(backend: Backend) -> None:
    spec = QuantizerSpec(num_bits=4, unsigned=True)
    assert spec.levels == 15
    quantizer = backend(spec)
    amax_of(quantizer).fill_(15.0)
    assert quantizer(torch.tensor([0.0, 0.6, 14.4, 99.0])).tolist() == [0.0, 1.0, 14.0, 15.0]


@cache
def exported_pair() -> ReferenceEvaluator:
    """The Q/DQ pair of the input as it stands in the INT8 ONNX, with a step of 1/64."""
    graph, plan, amax = case()
    model = qdq_from_onnx(graph.onnx, plan, {**amax, "input": 127 / 64})
    pair = [node for node in model.graph.node if node.output[0] in ("input_quantized", "input_dequantized")]
    assert [node.op_type for node in pair] == ["QuantizeLinear", "DequantizeLinear"]
    del model.graph.node[:]
    model.graph.node.extend(pair)
    model.graph.output[0].name = "input_dequantized"
    return ReferenceEvaluator(model)


def test_activations_are_those_of_the_exported_pair(backend: Backend) -> None:
    """Also below ``-amax``, where the pair has the code -128, and at the halves between two codes."""
    x = np.concatenate([np.arange(-600, 600) / 256, [-100.0, 100.0]]).astype(np.float32)
    (expected,) = exported_pair().run(None, {"input": x})
    quantizer = backend(QuantizerSpec())
    amax_of(quantizer).fill_(127 / 64)
    assert expected.min() == -2.0
    assert quantizer(torch.from_numpy(x)).tolist() == expected.tolist()


def test_a_dead_range_gives_zeros(backend: Backend) -> None:
    quantizer = backend(QuantizerSpec())
    amax_of(quantizer).fill_(0.0)
    assert quantizer(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bits", [8, 4])
def test_activations_are_those_of_the_simulation(backend: Backend, bits: int) -> None:
    quantizer, x = backend(QuantizerSpec(bits)), some_values(4, 3, 8, 8)
    amax_of(quantizer).fill_(1.7)
    ours, plain = quantizer(x), rounded_to_scale(x, 1.7 / levels_of(bits), levels_of(bits))
    torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("axis", [0, 1])
def test_weights_are_those_of_the_simulation(backend: Backend, axis: int) -> None:
    weight = some_values(5, 4, 3, 3)
    shape = tuple(size if dim == axis else 1 for dim, size in enumerate(weight.shape))
    quantizer = backend(QuantizerSpec(8, narrow=True, axis=axis, shape=shape))
    others = [dim for dim in range(4) if dim != axis]
    amax_of(quantizer).copy_(weight.abs().amax(others, keepdim=True))
    torch.testing.assert_close(quantizer(weight), rounded_weight(weight, axis, 8), rtol=1e-6, atol=1e-7)


def test_the_gradient_is_straight_through_inside_of_the_range(backend: Backend) -> None:
    quantizer = backend(QuantizerSpec())
    amax_of(quantizer).fill_(1.0)
    x = torch.tensor([-1.5, -0.3, 0.7, 1.1], requires_grad=True)
    quantizer(x).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 0.0]


def test_the_memory_layout_stays(backend: Backend) -> None:
    quantizer, x = backend(QuantizerSpec()), some_values(2, 3, 4, 4)
    flat = quantizer(x)
    for same in (x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
        y = quantized(same, quantizer)
        assert y.stride() == same.stride()
        assert torch.equal(y, flat)


def test_a_missing_modelopt_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt.torch.quantization.nn", None)
    with pytest.raises(QATError, match=r"pip install 'zscgan-convert\[qat\]'"):
        backend_from_name("modelopt")


def test_a_missing_pytorch_quantization_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_quantization", None)
    with pytest.raises(QATError, match=r"tools/pytorch-quantization.*--qat-backend modelopt"):
        backend_from_name("pytorch-quantization")


def test_the_placeholder_package_of_that_name_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    double.install(monkeypatch)
    monkeypatch.delattr(sys.modules["pytorch_quantization.nn"], "TensorQuantizer")
    with pytest.raises(QATError, match="can't be imported"):
        backend_from_name("pytorch-quantization")


def test_another_backend_is_refused() -> None:
    with pytest.raises(ValueError, match="modelopt, pytorch-quantization, got other"):
        backend_from_name("other")


def test_the_double_on_a_gpu_ends_at_127_whatever_it_is_told() -> None:
    descriptor = double.QuantDescriptor(amax=127.0, narrow_range=False)
    x = torch.tensor([-200.0, 200.0])
    assert double.TensorQuantizer(descriptor)(x).tolist() == [-128.0, 127.0]
    assert double.OnCuda(descriptor)(x).tolist() == [-127.0, 127.0]


def test_the_double_refuses_what_the_package_refuses() -> None:
    with pytest.raises(TypeError, match="Unused keys"):
        double.QuantDescriptor(bits=8)
    with pytest.raises(TypeError, match="float, list or ndarray"):
        double.QuantDescriptor(amax=torch.ones(1))
    with pytest.raises(TypeError, match="unsigned"):
        double.TensorQuantizer(double.QuantDescriptor(unsigned=True, amax=1.0))(torch.tensor([-1.0]))
    plain = double.TensorQuantizer(double.QuantDescriptor(axis=0, narrow_range=True))  # amax of each input
    assert torch.equal(
        plain(torch.tensor([[127.0, 1.4], [254.0, 1.4]])), torch.tensor([[127.0, 1.0], [254.0, 2.0]])
    )
    assert double.TensorQuantizer(double.QuantDescriptor(), disabled=True)(
        torch.tensor([0.1])
    ).item() == pytest.approx(0.1)
