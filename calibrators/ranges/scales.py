"""From the largest magnitude ``amax`` to the INT8 scale and back, in one place for every writer.

Symmetric and without a zero point: ``scale = amax / 127``. The quotient is taken in double precision and
rounded to float32 once, so that ``scale_from_amax(amax_from_scale(s)) == s`` for every float32 ``s``.
"""

import struct

LEVELS = 127
"""Positive levels of a signed INT8 value."""

MIN_AMAX = LEVELS * 2.0**-126
"""Least amax whose scale is a normal float32 (with a finite reciprocal). Anything below counts as dead."""

MAX_AMAX = (2.0 - 2.0**-23) * 2.0**127
"""Largest float32."""

DEAD_AMAX = 1.0
"""Amax of a tensor that was all zeros: each scale represents those exactly, and this one is harmless."""


def is_valid_amax(amax: float) -> bool:
    """Whether ``amax`` gives a scale that is positive, finite and normal in float32."""
    return MIN_AMAX <= amax <= MAX_AMAX


def scale_from_amax(amax: float) -> float:
    """The float32 nearest to ``amax / 127``, as a Python float. Raises ValueError where that is no scale."""
    if not is_valid_amax(amax):
        raise ValueError(f"expected amax between {MIN_AMAX:.3g} and {MAX_AMAX:.3g}, got {amax}")
    rounded: float = struct.unpack("<f", struct.pack("<f", amax / LEVELS))[0]
    return rounded


def amax_from_scale(scale: float) -> float:
    """``127 * scale``, exact in double precision for a float32 scale."""
    return LEVELS * scale
