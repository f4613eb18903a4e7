"""NVIDIA's fake quantizers behind one small interface, whichever package they come from."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class QuantizerSpec:
    """One fake quantizer.

    ``y = clip(round_half_even(x * L / amax), low, L) * amax / L`` with ``L = 2^(num_bits-1) - 1`` and ``low`` of
    ``-L - 1``, or ``-L`` where ``narrow``; ``unsigned`` has ``L = 2^num_bits - 1`` and ``low`` of 0. ``shape`` is
    that of amax, which broadcasts to the input, ``axis`` the dimension with a scale for each index.
    """

    num_bits: int = 8
    narrow: bool = False
    unsigned: bool = False
    axis: int | None = None
    shape: tuple[int, ...] = ()

    @property
    def levels(self) -> int:
        """``L``, the largest code."""
        return int(2 ** (self.num_bits - (not self.unsigned)) - 1)


Backend = Callable[[QuantizerSpec], nn.Module]
"""Makes a quantizer: a module of one tensor with the buffer ``amax``, of the spec's shape and written in place.

Its gradient is straight through where ``|x| <= amax`` and zero elsewhere.
"""


def amax_of(quantizer: nn.Module) -> Tensor:
    """The quantizer's amax itself, to be written in place."""
    amax = quantizer.amax
    assert isinstance(amax, Tensor)
    return amax
