"""When the training ends, by hand."""

import pytest

from calibrators.zscgan.schedule import SPAN, falling_from, falling_steps, is_over, rate_factor


def test_losses_that_keep_falling_take_all_steps() -> None:
    falling = [0.95**step for step in range(400)]
    assert falling_from(falling, falling, 250) == 150
    assert falling_from(falling[:149], falling[:149], 250) is None
    assert falling_steps(250) == 100
    assert not is_over(249, 150, 250)
    assert is_over(250, 150, 250)


def test_losses_that_stand_still_end_early() -> None:
    still = [1.0] * 400
    assert falling_from(still, still, 250) == 2 * SPAN
    assert falling_from(still[: 2 * SPAN - 1], still, 250) is None
    assert is_over(2 * SPAN + 100, 2 * SPAN, 250)


def test_labels_that_are_still_being_learned_keep_it_going() -> None:
    still, falling = [1.0] * 600, [4 * 0.99**step for step in range(600)]
    assert falling_from(still, falling, 1000) == 480  # under 0.05 nats nothing more is gained
    assert falling_from(still, [0.01 * value for value in falling], 1000) == 2 * SPAN


@pytest.mark.parametrize("known", [60, 75, 90, 400])
def test_a_decision_does_not_change_with_what_comes_after(known: int) -> None:
    losses = [0.9**step for step in range(30)] + [0.9**30] * 370
    start = falling_from(losses[:known], losses[:known], 250)
    assert start == (None if known < 90 else 90)


def test_the_rate_falls_in_a_half_cosine() -> None:
    assert [rate_factor(step, None, 250) for step in (0, 1000)] == [1, 1]
    assert rate_factor(149, 150, 250) == 1
    assert rate_factor(150, 150, 250) == 1
    assert rate_factor(200, 150, 250) == pytest.approx(0.5)
    assert rate_factor(249, 150, 250) == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("steps", [1, 2, 3, 12])
def test_few_steps_are_all_taken(steps: int) -> None:
    taken = 0
    losses: list[float] = []
    while not is_over(taken, falling_from(losses, losses, steps), steps):
        losses.append(1.0)
        taken += 1
        assert taken <= steps
    assert taken == steps
