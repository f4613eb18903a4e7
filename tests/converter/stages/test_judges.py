"""How many inputs networks are compared on."""

import pytest
import torch
from torch import nn

from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.guidance import Guide
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import TrainedGenerator
from calibrators.zscgan.successive import new_ensemble
from converter.samples import GeneratorSamples, ProceduralSamples
from converter.stages.judges import JUDGES, judges_of
from converter.trust.task.classes import Classes

SPEC, CPU = InputSpec((3, 16, 16)), torch.device("cpu")


@pytest.mark.parametrize(("count", "expected"), [(512, JUDGES), (32, 32)])
def test_guided_samples_take_time(count: int, expected: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    trained = TrainedGenerator(
        new_ensemble(SPEC, 10, ZSCGANOptions(latent=8, width=4), CPU).ensemble, "", (), 0.0
    )
    task = Classes(10)
    assert (
        judges_of(task, GeneratorSamples(trained, Guide(network, SPEC, ZSCGANOptions())), count) == expected
    )
    assert judges_of(task, GeneratorSamples(trained), count) == count
    assert judges_of(task, ProceduralSamples(SPEC, CPU), count) == count
    assert judges_of(task, None, count) == count
