"""How far the outputs of an engine are from a reference, and how far they may be."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.trust.task.base import Outputs, Task, agreement_of

TINY = 1e-12


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


def difference(outputs: Outputs, reference: Outputs, task: Task) -> Difference:
    """How ``outputs`` differ from ``reference``, the largest difference over the outputs, for networks of ``task``."""
    pairs = [(a, b) for a, b in zip(outputs, reference, strict=True) if np.issubdtype(b.dtype, np.floating)]
    apart = [(a.astype(np.float64) - b) / max(float(np.std(b, dtype=np.float64)), TINY) for a, b in pairs]
    return Difference(
        rms=max((float(np.sqrt(np.mean(values**2))) for values in apart), default=0.0),
        largest=max((float(np.abs(values).max()) for values in apart), default=0.0),
        agreement=agreement_of(task, task.answers(reference), task.answers(outputs)).percent,
    )


def largest_difference(outputs: Outputs, reference: Outputs) -> float:
    """The largest difference of a value."""
    return max(float(np.abs(a.astype(np.float64) - b).max()) for a, b in zip(outputs, reference, strict=True))


def literal_outputs(path: Path, x: NDArray[np.float32]) -> Outputs:
    """Outputs of a Q/DQ network as it is written: each QuantizeLinear and DequantizeLinear is computed in FP32."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    batch = image.shape[0] if isinstance(image.shape[0], int) else len(x)
    parts = [session.run(None, {image.name: x[start : start + batch]}) for start in range(0, len(x), batch)]
    return tuple(np.concatenate(some) for some in zip(*parts, strict=True))
