"""How many inputs two networks are compared on: fewer where they take long."""

from converter.samples import SampleSource, are_guided
from converter.trust.task.base import Task
from converter.trust.task.mask import Mask

JUDGES = 128
"""The most inputs whose answers are masks, each of thousands of pixels that agree or don't, or that are guided."""


def judges_of(task: Task, samples: SampleSource | None, count: int) -> int:
    """``count``, at most ``JUDGES`` where the answers are masks or the samples guided."""
    return min(count, JUDGES) if are_guided(samples) or isinstance(task, Mask) else count
