"""Which calibrator suits this network: the one whose INT8 network says most nearly what the FP32 network says.

Entropy (KL) calibration clips rare large values. Most networks gain by that; some, with depthwise convolutions
and bounded activations, lose points, with real data as well. It shows without any label, on inputs that lie between
classes: where the network is sure, any ranges will do, and what it says of single inputs is mostly chance.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from calibrators.options import Algorithm
from converter.graph.capture import FoldedGraph
from converter.quantize.placement import QuantizationPlan
from converter.trust.predictions import two_sided
from converter.trust.trial_engine import UNQUANTIZED, run_trial

TINY = 1e-12


def divergences(
    candidates: Mapping[Algorithm, Mapping[str, float]],
    graph: FoldedGraph,
    plan: QuantizationPlan,
    x: Float[np.ndarray, "batch channels height width"],
) -> dict[Algorithm, Float[np.ndarray, "batch"]]:
    """Calibrator -> ``soft_divergence`` of its INT8 network from FP32 for each of ``x``, in nats.

    ``candidates`` maps each calibrator to the amax of every tensor of ``plan``. The networks run in ONNX Runtime.
    """
    with run_trial(graph, UNQUANTIZED, {}) as network:
        fp32 = network(x)
    found: dict[Algorithm, NDArray[np.float64]] = {}
    for algorithm, amax in candidates.items():
        with run_trial(graph, plan, amax) as network:
            found[algorithm] = soft_divergence(fp32, network(x))
    return found


def choose_calibrator(found: Mapping[Algorithm, Float[np.ndarray, "batch"]]) -> Algorithm:
    """The calibrator of least mean divergence; of equal ones the first."""
    return min(found, key=lambda algorithm: float(found[algorithm].mean()))


def soft_divergence(
    fp32: Float[np.ndarray, "batch classes"], int8: Float[np.ndarray, "batch classes"]
) -> Float[np.ndarray, "batch"]:
    """KL(FP32 || INT8) of the class probabilities at the temperature that gives FP32's logits a spread of 1, in nats.

    At a temperature of 1 the few inputs of which the network is unsure decide alone; at this one all count, and
    networks with large and with small logits alike. The spread is the standard deviation over the classes, averaged
    over the inputs.
    """
    spread = max(float(two_sided(fp32).std(axis=1).mean()), TINY)
    return divergence(*(log_probabilities(logits / spread) for logits in (two_sided(fp32), two_sided(int8))))


def log_probabilities(logits: Float[np.ndarray, "batch classes"]) -> Float[np.ndarray, "batch classes"]:
    """Logarithms of the class probabilities."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def divergence(
    p: Float[np.ndarray, "batch classes"], q: Float[np.ndarray, "batch classes"]
) -> Float[np.ndarray, "batch"]:
    """KL(p || q) in nats of each row of logarithmic probabilities."""
    nats: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return nats
