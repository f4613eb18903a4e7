"""How many inputs two networks are compared on."""

from converter.samples import GeneratorSamples, SampleSource
from converter.trust.task.base import Task
from converter.trust.task.mask import Mask

JUDGES = 128
"""The most inputs whose answers are masks, each of thousands of pixels that agree or don't, or that are guided."""


def judges_of(task: Task, samples: SampleSource | None, count: int) -> int:
    """``count``, at most ``JUDGES`` where the answers are masks or the samples guided."""
    guided = isinstance(samples, GeneratorSamples) and samples.guide_steps > 0
    return min(count, JUDGES) if guided or isinstance(task, Mask) else count
