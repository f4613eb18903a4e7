"""Options of the fine-tuning; free of heavy imports, so that ``--help`` is instant."""

from dataclasses import dataclass
from pathlib import Path

BACKENDS = ("modelopt", "pytorch-quantization")
MOST_STEPS = 200_000
"""The generator's random numbers are reserved for so many."""


@dataclass(frozen=True)
class QATOptions:
    """How the network is fine-tuned with fake quantizers in it.

    At most ``steps`` steps are taken; real images in ``data`` take the place of samples. ``backend`` makes the
    quantizers. Other ``num_bits`` than 8 are simulated and can't be deployed, nor can ``unsigned``: one more bit for
    ranges that are never negative. With ``learn_ranges`` off the ranges stay as calibrated.

    ``learning_rate`` counts in units of each weight's root mean square, ``range_rate`` is for the logarithms of the
    ranges. Both are those of 8 bits, and larger for fewer (``rates``); they fall to zero in a half cosine. The loss is
    the KL divergence from FP32 at ``temperature``, plus ``feature_weight`` times the noise-to-signal ratio of the
    activations. Gradients are clipped to ``clip_norm``; the result are weights averaged over about 1 / (1 - ``ema``)
    steps. Raises ValueError that names the flag.
    """

    steps: int = 200
    data: Path | None = None
    backend: str = BACKENDS[0]
    learning_rate: float = 3e-4
    num_bits: int = 8
    unsigned: bool = False
    learn_ranges: bool = True
    range_rate: float = 3e-3
    temperature: float = 4.0
    feature_weight: float = 1.0
    clip_norm: float = 1.0
    ema: float = 0.98
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= MOST_STEPS:
            raise ValueError(f"expected --qat-steps between 1 and {MOST_STEPS}, got {self.steps}")
        if self.backend not in BACKENDS:
            raise ValueError(f"expected --qat-backend to be one of {', '.join(BACKENDS)}, got {self.backend}")
        if not 0 < self.learning_rate <= 1:
            raise ValueError(
                f"expected --qat-lr above 0 and up to 1, got {self.learning_rate}; it counts in units of each weight's "
                "root mean square, for example --qat-lr 0.0003"
            )
        if not 2 <= self.num_bits <= 8:
            raise ValueError(f"expected 2 to 8 bits, got {self.num_bits}")

    @property
    def rates(self) -> tuple[float, float]:
        """Rates of the weights and of the ranges at ``num_bits``: doubled for every two bits less.

        With fewer bits it is further to the next code. Measured with ResNet-20: 3e-4 is better than 1e-3 at 8 bits,
        and 1e-3 and 2e-3 do equally well at 4.
        """
        factor = 2.0 ** ((8 - self.num_bits) / 2)
        return self.learning_rate * factor, self.range_rate * factor
