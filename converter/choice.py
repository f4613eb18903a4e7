"""Which calibrator suits this network: the one whose INT8 network says most nearly what the FP32 network says.

Entropy (KL) calibration clips rare large values. Most networks gain by that; some, with depthwise convolutions
and bounded activations, lose points, with real data as well. It shows on the samples too, without any label.
"""

import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from calibrators.options import Algorithm
from converter.candidate import UNQUANTIZED, running
from converter.graph import FoldedGraph
from converter.placement import QuantizationPlan
from converter.verify import two_sided

USUAL: Algorithm = "entropy"
"""TensorRT's own calibration, and what trtexec's users know."""

SURE = 3.0
"""Another one is taken only where it is better by this many standard errors of the difference, input by input, ..."""

NEGLIGIBLE = 2e-3
"""... and entropy's divergence is above this, in nats: below it INT8 and FP32 agree, whoever chose the ranges."""


def divergences(
    candidates: Mapping[Algorithm, Mapping[str, float]],
    graph: FoldedGraph,
    plan: QuantizationPlan,
    x: Float[np.ndarray, "batch channels height width"],
) -> dict[Algorithm, Float[np.ndarray, "batch"]]:
    """Calibrator -> KL(FP32 || INT8) of the class probabilities of each of ``x`` in nats, with its ranges.

    ``candidates`` maps each calibrator to the amax of every tensor of ``plan``. The networks run in ONNX Runtime.
    """
    with running(graph, UNQUANTIZED, {}) as network:
        fp32 = log_probabilities(network(x))
    found: dict[Algorithm, NDArray[np.float64]] = {}
    for algorithm, amax in candidates.items():
        with running(graph, plan, amax) as network:
            found[algorithm] = divergence(fp32, log_probabilities(network(x)))
    return found


def chosen(found: Mapping[Algorithm, Float[np.ndarray, "batch"]]) -> Algorithm:
    """The calibrator to take: ``USUAL``, unless another one is surely better on the same inputs.

    The difference is taken input by input, as most of a divergence is common to all calibrators: it comes from
    the weights and from inputs of which the network itself is unsure.
    """
    best = min(found, key=lambda algorithm: float(found[algorithm].mean()))
    gain = found[USUAL] - found[best]
    error = float(gain.std()) / math.sqrt(len(gain))
    return best if found[USUAL].mean() > NEGLIGIBLE and gain.mean() > SURE * error else USUAL


def log_probabilities(logits: Float[np.ndarray, "batch classes"]) -> Float[np.ndarray, "batch atleast2"]:
    """Logarithms of the class probabilities; a single logit stands for two classes."""
    wide = two_sided(logits)
    shifted = wide - wide.max(axis=1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return normalised


def divergence(
    p: Float[np.ndarray, "batch classes"], q: Float[np.ndarray, "batch classes"]
) -> Float[np.ndarray, "batch"]:
    """KL(p || q) in nats of each row of logarithmic probabilities."""
    nats: NDArray[np.float64] = (np.exp(p) * (p - q)).sum(axis=1)
    return nats
