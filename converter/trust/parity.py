"""How far the outputs of an engine are from a reference."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from converter.trust.limits import Difference
from converter.trust.task.base import Outputs, Task, agreement_of

TINY = 1e-12


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
