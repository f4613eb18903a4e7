"""The twin's gradients against finite differences, with respect to inputs and to what layers learn."""

from typing import Any

import numpy as np
import pytest
import torch

from converter.graph.twin import nodes_by_value, twin_from_onnx
from tests.converter.graph.twin.models import one_node_model

_GENERATOR = np.random.default_rng(0)


def normal(*shape: int) -> Any:
    return _GENERATOR.standard_normal(shape)


IMAGE = normal(2, 2, 5, 4)

ACTIVATIONS = (
    *(
        "Celu",
        "Elu",
        "Erf",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "LogSoftmax",
        "Mish",
        "Relu",
        "Selu",
    ),
    *("Sigmoid", "Softmax", "Softplus", "Softsign", "Swish", "Tanh"),
)

# Operator, inputs, initializers, attributes; anything at a kink would have no gradient.
CASES: dict[str, tuple[str, list[Any], dict[str, Any], dict[str, Any]]] = {
    "conv": ("Conv", [IMAGE], {"w": normal(4, 1, 3, 2), "b": normal(4)}, {"group": 2, "pads": [1, 0, 0, 1]}),
    "conv-same": ("Conv", [IMAGE], {"w": normal(3, 2, 3, 3)}, {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
    "transposed": ("ConvTranspose", [IMAGE], {"w": normal(2, 3, 3, 3), "b": normal(3)}, {"strides": [2, 2]}),
    "transposed-lopsided": (
        "ConvTranspose",
        [IMAGE],
        {"w": normal(2, 3, 3, 3)},
        {"strides": [2, 2], "pads": [0, 1, 1, 0], "output_padding": [1, 0]},
    ),
    "gemm": ("Gemm", [normal(3, 4)], {"w": normal(5, 4), "b": normal(5)}, {"transB": 1}),
    "gemm-scaled": ("Gemm", [normal(3, 4)], {"w": normal(4, 5), "b": normal(5)}, {"alpha": 0.5, "beta": 2.0}),
    "matmul": ("MatMul", [normal(2, 3, 4)], {"w": normal(4, 5)}, {}),
    "batch-norm": (
        "BatchNormalization",
        [IMAGE],
        {"w": normal(2), "b": normal(2), "m": normal(2), "v": np.exp(normal(2))},
        {"epsilon": 1e-3},
    ),
    "layer-norm": ("LayerNormalization", [normal(3, 4)], {"w": normal(4), "b": normal(4)}, {}),
    "group-norm": (
        "GroupNormalization",
        [normal(2, 4, 3)],
        {"w": normal(4), "b": normal(4)},
        {"num_groups": 2},
    ),
    "instance-norm": ("InstanceNormalization", [IMAGE], {"w": normal(2), "b": normal(2)}, {}),
    "rms-norm": ("RMSNormalization", [normal(3, 4)], {"w": normal(4)}, {}),
    "lrn": ("LRN", [normal(1, 4, 2, 2)], {}, {"size": 2, "alpha": 0.5}),
    "max-pool": ("MaxPool", [IMAGE], {}, {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1}),
    "average-pool": ("AveragePool", [IMAGE], {}, {"kernel_shape": [3, 2], "pads": [1, 0, 1, 0]}),
    "average-pool-lopsided": (
        "AveragePool",
        [IMAGE],
        {},
        {"kernel_shape": [2, 2], "pads": [1, 0, 0, 1], "count_include_pad": 1},
    ),
    "global-average-pool": ("GlobalAveragePool", [IMAGE], {}, {}),
    "global-max-pool": ("GlobalMaxPool", [IMAGE], {}, {}),
    "prelu": ("PRelu", [IMAGE], {"slope": normal(2, 1, 1)}, {}),
    "prelu-one-slope": ("PRelu", [IMAGE], {"slope": normal(1)}, {}),
    "prelu-by-column": ("PRelu", [IMAGE], {"slope": normal(IMAGE.shape[3])}, {}),
    "reduce-l2": ("ReduceL2", [IMAGE], {"axes": np.array([2, 3])}, {}),
    "clip": ("Clip", [IMAGE], {"low": np.float32(-0.4), "high": np.float32(0.6)}, {}),
    "resize-linear": ("Resize", [IMAGE], {"roi": [], "scales": [1.0, 1, 2, 2]}, {"mode": "linear"}),
    "resize-cubic": (
        "Resize",
        [IMAGE],
        {"roi": [], "scales": [1.0, 1, 0.6, 2.5]},
        {"mode": "cubic", "coordinate_transformation_mode": "asymmetric"},
    ),
    "resize-nearest": ("Resize", [IMAGE], {"roi": [], "scales": [1.0, 1, 2, 1.5]}, {"mode": "nearest"}),
    "pad-reflect": ("Pad", [IMAGE], {"pads": np.array([0, 0, 2, 1, 0, 0, 1, 2])}, {"mode": "reflect"}),
    "slice-backwards": (
        "Slice",
        [IMAGE],
        {"starts": [-1], "ends": [-100], "axes": [2], "steps": [-2]},
        {},
    ),
    "gather": ("Gather", [IMAGE], {"indices": [[0, -1], [1, 1]]}, {"axis": 2}),
    "attention": ("Attention", [normal(1, 2, 3, 4)] * 3, {}, {"is_causal": 1}),
    **{name.lower(): (name, [IMAGE], {}, {}) for name in ACTIVATIONS},
}


def in_float64(values: dict[str, Any]) -> dict[str, Any]:
    """Scales and bounds stay what ONNX wants; whole lists of numbers are indices."""
    arrays = {name: np.asarray(value) for name, value in values.items()}
    single = {"scales", "roi", "low", "high"}
    return {name: value.astype(np.float32) if name in single else value for name, value in arrays.items()}


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_finite_differences(case: str) -> None:
    operator, inputs, initializers, attributes = CASES[case]
    constants = in_float64(initializers)
    module = twin_from_onnx(one_node_model(operator, inputs, opset=24, initializers=constants, **attributes))
    learned = dict(module.named_parameters())
    expected = {name for name, value in constants.items() if value.dtype == np.float64 and name not in "mv"}
    assert len(learned) == len(expected)
    x = [torch.tensor(value, requires_grad=True) for value in inputs]

    def run(*values: Any) -> Any:
        given, weights = values[: len(x)], dict(zip(learned, values[len(x) :], strict=True))
        return torch.func.functional_call(module, weights, given)

    assert torch.autograd.gradcheck(run, (*x, *learned.values()))
    assert module(*x).requires_grad
    assert "y" in nodes_by_value(module)
