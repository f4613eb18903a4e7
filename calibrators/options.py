"""Options of the calibration stage; nothing heavy is imported, so that ``--help`` stays instant."""

from dataclasses import dataclass
from typing import Literal, get_args

Algorithm = Literal["entropy", "max", "percentile", "mse"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


@dataclass(frozen=True)
class CalibrationOptions:
    """How the range of each activation is chosen.

    ``algorithm`` is ``entropy`` (TensorRT's KL scheme), ``max`` (the largest value seen), ``percentile``
    (the range that holds ``percentile`` percent of the values) or ``mse`` (the least squared rounding and
    clipping error). At most ``samples`` inputs are run. Raises ValueError that names the flag.
    """

    algorithm: Algorithm = "entropy"
    percentile: float = 99.99
    samples: int = 512

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise ValueError(
                f"expected --calibrator to be one of {', '.join(ALGORITHMS)}, got {self.algorithm}"
            )
        if not 0.0 < self.percentile <= 100.0:
            raise ValueError(
                f"expected --percentile above 0 and up to 100, got {self.percentile}; "
                "type for example --percentile 99.99"
            )
        if self.samples < 1:
            raise ValueError(
                f"expected --calib-samples of 1 or more, got {self.samples}; "
                "type for example --calib-samples 512"
            )
