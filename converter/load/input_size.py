"""The size of the input where nothing but the network says it: the only usual one that it runs on.

A Linear behind a flatten, or the embedding of positions, fits one size of image alone. The network is run on each usual
size with fake tensors, which have shapes and no values, so a run takes no arithmetic.
"""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

USUAL_SIZES = (
    28,
    32,
    48,
    64,
    96,
    112,
    128,
    160,
    192,
    224,
    240,
    256,
    260,
    299,
    300,
    320,
    336,
    380,
    384,
    416,
    448,
    512,
    518,
    640,
)
_ANY = (224, 64, 320)
"""Of these a network runs on one, unless its input may have any size."""


@dataclass(frozen=True)
class SizesThatRun:
    """The shapes of the usual sizes that a network runs on.

    ``any_size`` says that its size is not fixed; then ``usual`` tells what is usual for such a network.
    """

    shapes: tuple[tuple[int, int, int], ...]
    any_size: bool = False
    usual: str = ""


def sizes_that_run(network: nn.Module) -> SizesThatRun:
    """Which usual square inputs ``network``, in eval mode, runs on; none where fake tensors can't tell.

    Its channels are those of its first convolution; of a network without one, 1 and 3 are tried.
    """
    first = next((m for m in network.modules() if isinstance(m, nn.Conv2d | nn.LazyConv2d)), None)
    channels = (1, 3) if first is None else (first.in_channels,)
    try:
        own = copy.deepcopy(network)  # what it keeps of a run would be fake
    except Exception:  # noqa: BLE001 - the user's module may not be made for copies
        return SizesThatRun(())
    own = own.eval().float()
    for count in channels:
        runs = [size for size in _ANY if _runs(own, (count, size, size))]
        if len(runs) > 1:
            return SizesThatRun((), any_size=True, usual=_usual(first, count))
    shapes = [(count, size, size) for count in channels for size in USUAL_SIZES]
    return SizesThatRun(tuple(shape for shape in shapes if _runs(own, shape)))


def _usual(first: nn.Module | None, channels: int) -> str:
    """What the first convolution says of the size: those for small images keep it."""
    if not isinstance(first, nn.Conv2d):
        return f"usual is {channels}x224x224"
    small = max(first.stride) == 1 and max(first.kernel_size) <= 5
    kernel = "x".join(map(str, first.kernel_size))
    sizes = ("28x28", "32x32", "64x64") if small else ("224x224", "256x256", "299x299")
    return (
        f"usual behind a first convolution of {kernel} with stride {max(first.stride)}: "
        f"{', '.join(f'{channels}x{size}' for size in sizes)}"
    )


def _runs(network: nn.Module, shape: tuple[int, int, int]) -> bool:
    try:
        with torch.no_grad(), _quiet(), FakeTensorMode(allow_non_fake_inputs=True):
            network(torch.zeros(2, *shape))
    except Exception:  # noqa: BLE001 - the network's forward is the user's code
        return False
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """While inside, PyTorch doesn't print what a size that doesn't fit raises."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = before
