"""How far the outputs of an engine may be from a reference; free of heavy imports."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """How far an engine's outputs may be from a reference.

    ``rms`` and ``largest`` are differences in standard deviations of the reference's output, ``agreement`` is in
    percent of what both say, for a classifier of the images for which both choose the same class.
    """

    rms: float
    largest: float
    agreement: float


# An engine may add in another order, and then a value that lies between two INT8 steps is rounded the other way.
# Measured with ONNX Runtime over nine trainings: rms 0.0048 to 0.0064, largest 0.06, agreement 99.8 %.
QDQ_LIMITS = Limits(rms=0.02, largest=0.2, agreement=99.0)

# What INT8 costs on the digits: rms 0.011 to 0.013, largest 0.12, agreement 99.8 % in the same nine.
FP32_LIMITS = Limits(rms=0.04, largest=0.4, agreement=98.5)


@dataclass(frozen=True)
class Difference:
    """Outputs beside those of a reference; the fields are those of ``Limits``."""

    rms: float
    largest: float
    agreement: float

    def missed(self, limits: Limits) -> list[str]:
        """The limits that are not kept, in words."""
        found = []
        if not self.rms <= limits.rms:  # so that NaN misses it
            found.append(f"rms {self.rms:.3g} over {limits.rms:g}")
        if not self.largest <= limits.largest:
            found.append(f"largest difference {self.largest:.3g} over {limits.largest:g}")
        if not self.agreement >= limits.agreement:
            found.append(f"agreement {self.agreement:.1f} %, under {limits.agreement:g} %")
        return found
