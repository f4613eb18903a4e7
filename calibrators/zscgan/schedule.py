"""When the training is over, by its own losses: no data, no set of samples to test on.

The learning rate stays until nothing more is gained, then falls to zero, and that is the end. So ``steps`` is the
most that a training takes; an easy network is done earlier.
"""

import math
from collections.abc import Sequence

SPAN = 30
"""Steps that are averaged: losses jump from batch to batch."""

LEAST_GAIN = 0.05
"""Share by which a loss has to fall from one span to the next for the training to go on."""

LEARNED = 0.05
"""Nats of label loss under which the labels are learned: nothing more is to be gained from them."""

FALLING = 0.4
"""Share of the steps in which the learning rate falls."""


def falling_from(bn_kl: Sequence[float], label: Sequence[float], steps: int) -> int | None:
    """The step from which the learning rate falls; None while that is open.

    ``bn_kl`` and ``label`` are the losses of the steps so far, in nats. The rate falls once both have stopped
    falling, and at the latest so that the training ends with step ``steps``. It depends on the losses up to that
    step alone, so that a resumed training decides as an uninterrupted one does.
    """
    latest = steps - falling_steps(steps)
    for step in range(2 * SPAN, min(len(bn_kl), latest) + 1, SPAN):
        gained = _gains(bn_kl, step) or (_mean(label, step) > LEARNED and _gains(label, step))
        if not gained:
            return step
    return latest if len(bn_kl) >= latest else None


def falling_steps(steps: int) -> int:
    """How many steps the learning rate falls for."""
    return max(1, round(FALLING * steps))


def rate_factor(step: int, start: int | None, steps: int) -> float:
    """What the learning rate is multiplied by: 1, and from ``start`` on a half cosine to 0."""
    if start is None or step < start:
        return 1.0
    return half_cosine(step - start, falling_steps(steps))


def half_cosine(step: int, steps: int) -> float:
    """1 at step 0, falling to 0 at step ``steps``."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def is_over(step: int, start: int | None, steps: int) -> bool:
    """Whether the training ends before ``step``."""
    return start is not None and step >= start + falling_steps(steps)


def _mean(values: Sequence[float], end: int) -> float:
    return sum(values[end - SPAN : end]) / SPAN


def _gains(values: Sequence[float], end: int) -> bool:
    """Whether the span that ends here is better than the one before it."""
    return _mean(values, end) < (1 - LEAST_GAIN) * _mean(values, end - SPAN)
