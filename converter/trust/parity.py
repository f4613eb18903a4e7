"""How far the logits of an engine are from a reference, and how far they may be."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Limits:
    """How far an engine's logits may be from a reference.

    ``rms`` and ``largest`` are differences in standard deviations of the reference's logits, ``agreement`` is in
    percent of the images for which both choose the same class.
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
    """Logits beside those of a reference; the fields are those of ``Limits``."""

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
            found.append(f"same class on {self.agreement:.1f} %, under {limits.agreement:g} %")
        return found


def difference(logits: NDArray[np.float32], reference: NDArray[np.float32]) -> Difference:
    """How ``logits`` (images, classes) differ from ``reference``, in standard deviations of the latter."""
    apart, spread = logits.astype(np.float64) - reference, float(np.std(reference, dtype=np.float64))
    same = np.argmax(logits, axis=1) == np.argmax(reference, axis=1)
    return Difference(
        rms=float(np.sqrt(np.mean(apart**2))) / spread,
        largest=float(np.abs(apart).max()) / spread,
        agreement=100.0 * float(np.mean(same)),
    )


def literal_logits(path: Path, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of a Q/DQ network as it is written: each QuantizeLinear and DequantizeLinear is computed in FP32."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    batch = image.shape[0] if isinstance(image.shape[0], int) else len(x)
    parts = [x[start : start + batch] for start in range(0, len(x), batch)]
    return np.concatenate([session.run(None, {image.name: part})[0] for part in parts])
