"""Batches that are made ahead: in their order, no more of them than agreed, and none once nobody asks."""

import threading

import pytest
import torch

from calibrators.data.batches import MOST_AHEAD, Batch, made_ahead


def numbered(place: int) -> Batch:
    """A batch of one input that holds its number."""
    return torch.full((1, 1, 1, 1), float(place)), torch.tensor([place])


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_batches_come_in_their_order(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert [int(labels) for _, labels in made_ahead(numbered, range(0, 50, 2))] == list(range(0, 50, 2))


@pytest.mark.parametrize("threads", [1, 2, 64])
def test_few_batches_are_made_ahead(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    begun, lock = [], threading.Lock()

    def make(place: int) -> Batch:
        with lock:
            begun.append(place)
        return numbered(place)

    batches = made_ahead(make, range(1000))
    for _ in range(3):
        next(batches)
    assert max(begun) <= 2 + min(threads, MOST_AHEAD)
    batches.close()  # type: ignore[attr-defined]
    assert max(begun) <= 2 + min(threads, MOST_AHEAD)


def test_a_failure_comes_at_its_place() -> None:
    def make(place: int) -> Batch:
        if place == 3:
            raise OSError("damaged")
        return numbered(place)

    batches = made_ahead(make, range(10))
    assert [int(next(batches)[1]) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="damaged"):
        next(batches)
