"""Every kind of file that the program reads, damaged: it is read all the same, or refused with a clear message."""

from collections import defaultdict

import pytest

from tests.fuzz.driver import GOOD, Outcome, outcomes
from tests.fuzz.kinds import KINDS

FILES = 30
FEWER = {"TorchScript": 8, "pt2": 12, "training checkpoint": 12}
"""Of what takes long to read where the damage doesn't matter; ``make fuzz`` reads 700 of each."""
LONG = "state_dict, recognised"
"""Compares with every architecture of torchvision, which takes seconds at first; in ``make fuzz`` alone."""
NUMBERS = {kind: FEWER.get(kind, FILES) for kind in KINDS if kind != LONG}


@pytest.fixture(scope="module")
def taken() -> dict[str, list[Outcome]]:
    """How damaged files of each kind were taken by a child process."""
    files = [(kind, index) for kind, number in NUMBERS.items() for index in range(number)]
    by_kind = defaultdict(list)
    for outcome in outcomes(files):
        by_kind[outcome.kind].append(outcome)
    return by_kind


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_damaged_file_is_read_or_refused(kind: str, taken: dict[str, list[Outcome]]) -> None:
    assert len(taken[kind]) == NUMBERS[kind]
    assert [outcome for outcome in taken[kind] if outcome.how not in GOOD] == []


def test_the_damage_is_noticed(taken: dict[str, list[Outcome]]) -> None:
    """Else the files would be whole, or nobody would look at them."""
    # A training starts anew where its checkpoint is damaged.
    refused = {kind for kind, found in taken.items() if any(outcome.how == "refused" for outcome in found)}
    assert set(NUMBERS) - refused == {"training checkpoint"}
