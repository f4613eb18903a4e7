"""Networks with few or unusual batch norms: the generator trains on them without NaN."""

import math

import pytest
import torch

from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.training import train_generator
from tests.converter.graph.test_families import family_model

pytestmark = pytest.mark.slow

OPTIONS = ZSCGANOptions(steps=3, batch=8, width=8)


@pytest.mark.parametrize(
    "name", ["googlenet", "densenet", "mnasnet0_5", "regnet_y_400mf", "mobilenet_v3_small"]
)
def test_trains_without_nan(name: str) -> None:
    teacher = family_model(name).eval().requires_grad_(False)
    spec = InputSpec((3, 64, 64))
    state = train_generator(teacher, spec, 10, OPTIONS)
    assert state.step == 3
    assert all(math.isfinite(step.bn_kl) and math.isfinite(step.label) for step in state.history)
    assert all(bool(torch.isfinite(value).all()) for value in state.generator.state_dict().values())
