"""How many inputs calibrate, and how many two networks are compared on: fewer where they take long."""

from calibrators.zscgan.options import ZSCGANOptions
from converter.samples import GeneratorSamples, SampleSource
from converter.trust.prediction import inputs_for
from converter.trust.task.base import Task
from converter.trust.task.mask import Mask

JUDGES = 128
"""The most inputs whose answers are masks, each of thousands of pixels that agree or don't, or that are guided."""


def are_guided(samples: SampleSource | None) -> bool:
    """Whether each of these takes gradient steps of its own."""
    return isinstance(samples, GeneratorSamples) and samples.guide_steps > 0


def judges_of(task: Task, samples: SampleSource | None, count: int) -> int:
    """``count``, at most ``JUDGES`` where the answers are masks or the samples guided."""
    return min(count, JUDGES) if are_guided(samples) or isinstance(task, Mask) else count


def calibrating_of(samples: SampleSource, shape: tuple[int, int, int], count: int) -> int:
    """``count``, at most as many as two networks are compared on where the samples are guided: 256 large ones.

    They give the ranges of 512 (docs/method.md).
    """
    return min(count, inputs_for(ZSCGANOptions().batch_for(*shape[1:]))) if are_guided(samples) else count
