"""The plan's quantizers as the report lists them."""

from converter.quantize.placement import ActivationQuantizer, QuantizationPlan, WeightQuantizer
from converter.report.quantizer_rows import edges_from_plan


def test_each_quantizer_is_an_edge() -> None:
    plan = QuantizationPlan(
        (ActivationQuantizer("relu", ("conv", "add"), "relu"), ActivationQuantizer("left", ("cat",), "cat")),
        (WeightQuantizer("conv.weight", 1, "conv"),),
    )
    assert edges_from_plan(plan, {"relu": 2.5, "cat": 4.0, "left": 1.0}) == [
        {
            "tensor": "relu",
            "kind": "activation",
            "axis": None,
            "consumers": ["conv", "add"],
            "range_of": "relu",
            "amax": 2.5,
        },
        {
            "tensor": "left",
            "kind": "activation",
            "axis": None,
            "consumers": ["cat"],
            "range_of": "cat",
            "amax": 4.0,
        },
        {
            "tensor": "conv.weight",
            "kind": "weight",
            "axis": 1,
            "consumers": ["conv"],
            "range_of": None,
            "amax": None,
        },
    ]
