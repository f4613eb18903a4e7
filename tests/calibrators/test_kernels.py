"""Which kernels are free at which stage. What they compute on a GPU can't be seen here."""

from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.backends import cuda, cudnn

from calibrators.data.input_spec import InputSpec
from calibrators.kernels import exact_kernels, fast_kernels
from calibrators.options import CalibrationOptions
from calibrators.ranges.calibrate import calibrate
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import SyntheticBatches
from calibrators.zscgan.training import new_config, new_state, train_generator

EXACT, FAST = (False, False, True, False), (True, True, False, True)
OPTIONS = ZSCGANOptions(steps=2, batch=4, latent=4, width=4, samples_per_class=1, least_steps=1)
SPEC = InputSpec((3, 8, 8))


def flags() -> tuple[bool, ...]:
    """TF32 in convolutions and products, the same kernels every time, and the fastest ones."""
    return cudnn.allow_tf32, cuda.matmul.allow_tf32, cudnn.deterministic, cudnn.benchmark


class Seen(nn.Module):
    """A classifier that notes the flags of each of its runs, those of its copies included."""

    seen: ClassVar[list[tuple[bool, ...]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 4))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(flags())
        result: Tensor = self.layers(x)
        return result


def test_flags_are_set_and_given_back() -> None:
    before = flags()
    with fast_kernels():
        assert flags() == FAST
        with pytest.raises(ZeroDivisionError), exact_kernels():
            assert flags() == EXACT
            raise ZeroDivisionError
        assert flags() == FAST
    assert flags() == before


@pytest.mark.parametrize("kernels", [exact_kernels, fast_kernels])
def test_torch_export_bears_with_them(kernels: Callable[[], object]) -> None:
    """It reads them itself, and raises where old and new names of the same flag disagree."""
    with kernels():  # type: ignore[attr-defined]
        torch.export.export(nn.Conv2d(3, 4, 3).eval(), (torch.zeros(1, 3, 8, 8),))


def test_training_is_fast_and_calibration_exact() -> None:
    teacher = Seen().eval().requires_grad_(False)
    generator = train_generator(teacher, SPEC, 4, OPTIONS).generator
    assert set(teacher.seen[-OPTIONS.steps :]) == {FAST}  # before them its layout was tried
    teacher.seen.clear()
    samples = SyntheticBatches(Ensemble([generator]), 8, 4, seed=0)
    calibrate(lambda x: {"logits": teacher(x)}, samples, options=CalibrationOptions("max", samples=8))
    assert set(teacher.seen) == {EXACT}


def test_samples_are_made_exactly_wherever_they_are_used() -> None:
    seen = []
    generator = new_state(new_config(SPEC, 4, OPTIONS), OPTIONS, torch.device("cpu")).generator
    generator.register_forward_hook(lambda *_: seen.append(flags()))
    with fast_kernels():
        for _ in SyntheticBatches(Ensemble([generator]), 8, 4, seed=0):
            assert flags() == FAST
    assert seen == [EXACT] * 2
