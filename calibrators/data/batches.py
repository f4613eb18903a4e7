"""Batches: what every stage after the source of the data takes, synthetic or real."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from calibrators.data.input_spec import InputSpec

MOST_AHEAD = 4
"""Batches that are made in threads while one is worked on; each takes memory."""

Batch = tuple[Float[Tensor, "batch channels height width"], Int[Tensor, "batch"]]


@runtime_checkable
class Batches(Protocol):
    """Normalised inputs and labels that can be iterated again and come out the same each time.

    ``num_samples`` is the total, ``batch_size`` the largest batch. A label of -1 means unknown.
    """

    @property
    def num_samples(self) -> int: ...

    @property
    def batch_size(self) -> int: ...

    def __iter__(self) -> Iterator[Batch]: ...


@runtime_checkable
class Skipping(Protocol):
    """Batches of which some are made without the others."""

    def every(self, first: int, step: int) -> Iterator[Batch]: ...


def every(batches: Batches, first: int, step: int) -> Iterator[Batch]:
    """Every ``step``-th batch, from the ``first`` on."""
    if isinstance(batches, Skipping):
        return batches.every(first, step)
    return islice(batches, first, None, step)


def made_ahead(make: Callable[[int], Batch], places: Iterable[int]) -> Iterator[Batch]:
    """``make(place)`` for each place; the next ones are made in threads while the caller works on the one before."""
    ahead = min(MOST_AHEAD, torch.get_num_threads())
    pool, following = ThreadPoolExecutor(ahead), deque[Future[Batch]]()
    try:
        for place in places:
            following.append(pool.submit(make, place))
            if len(following) > ahead:
                yield following.popleft().result()
        while following:
            yield following.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class TensorBatches:
    """Batches cut from two tensors in memory."""

    x: Float[Tensor, "samples channels height width"]
    y: Int[Tensor, "samples"]
    batch_size: int = 64

    @property
    def num_samples(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Batch]:
        yield from zip(self.x.split(self.batch_size), self.y.split(self.batch_size), strict=True)


def send(x: Shaped[Tensor, "*shape"], device: torch.device) -> Shaped[Tensor, "*shape"]:
    """``x`` of the CPU on ``device``, without waiting until a GPU has done what it was given before."""
    # From memory that isn't pinned the driver may wait all the same.
    return (x.pin_memory() if device.type == "cuda" else x).to(device, non_blocking=True)


def first_inputs(batches: Batches, count: int) -> Float[Tensor, "inputs channels height width"]:
    """The first ``count`` inputs, or all of them where there are fewer; no later batch is made."""
    found: list[Tensor] = []
    for x, _ in batches:
        found.append(x[: count - sum(map(len, found))])
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)


def random_pixels(spec: InputSpec, count: int, seed: int) -> Float[Tensor, "batch channels height width"]:
    """Uniform random pixels, normalised."""
    random = torch.rand(count, *spec.shape, generator=torch.Generator().manual_seed(seed))
    low, high = (torch.tensor(bound).view(1, -1, 1, 1) for bound in (spec.low, spec.high))
    return low + random * (high - low)
