"""The plan's quantizers as the report lists them."""

from converter.quantize.placement import ActivationQuantizer, QuantizationPlan, WeightQuantizer
from converter.report.document import EdgeSection
from converter.report.quantizer_rows import edges_from_plan


def test_each_quantizer_is_an_edge() -> None:
    plan = QuantizationPlan(
        (ActivationQuantizer("relu", ("conv", "add"), "relu"), ActivationQuantizer("left", ("cat",), "cat")),
        (WeightQuantizer("conv.weight", 1, "conv"),),
    )
    assert edges_from_plan(plan, {"relu": 2.5, "cat": 4.0, "left": 1.0}) == [
        EdgeSection("relu", "activation", None, ["conv", "add"], "relu", 2.5),
        EdgeSection("left", "activation", None, ["cat"], "cat", 4.0),
        EdgeSection("conv.weight", "weight", 1, ["conv"], None, None),
    ]
