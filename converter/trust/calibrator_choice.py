"""Which calibrator suits this network: the one whose INT8 network says most nearly what the FP32 network says.

Entropy (KL) calibration clips rare large values. Most networks gain by that; some, with depthwise convolutions
and bounded activations, lose points, with real data as well. It shows without any label, on inputs that lie between
classes: where the network is sure, any ranges will do, and what it says of single inputs is mostly chance.
"""

from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import torch
from jaxtyping import Float

from calibrators.options import Algorithm
from converter.graph.capture import FoldedGraph
from converter.quantize.placement import QuantizationPlan
from converter.trust.task.base import Outputs, Task
from converter.trust.task.heads import Heads, softened_divergence
from converter.trust.trial_engine import UNQUANTIZED, run_trial

MOST_NUMBERS = 1 << 24
"""Of outputs that are compared together, so that a batch of masks is a small one: 64 MiB."""


def divergences(
    candidates: Mapping[Algorithm, Mapping[str, float]],
    graph: FoldedGraph,
    plan: QuantizationPlan,
    task: Task,
    x: Float[np.ndarray, "batch channels height width"],
) -> dict[Algorithm, Float[np.ndarray, "batch"]]:
    """Calibrator -> ``softened_divergence`` of its INT8 network from FP32 for each of ``x``, in nats.

    ``candidates`` maps each calibrator to the amax of every tensor of ``plan``. The networks run in ONNX Runtime.
    """
    found: dict[Algorithm, list[Float[np.ndarray, "part"]]] = {algorithm: [] for algorithm in candidates}
    with ExitStack() as stack:
        fp32 = stack.enter_context(run_trial(graph, UNQUANTIZED, {}))
        networks = {
            algorithm: stack.enter_context(run_trial(graph, plan, amax))
            for algorithm, amax in candidates.items()
        }
        size = part_size(fp32(x[:1]), len(x))
        for start in range(0, len(x), size):
            part = x[start : start + size]
            reference = heads_of(task, fp32(part))
            for algorithm, network in networks.items():
                nats = softened_divergence(reference, heads_of(task, network(part)))
                found[algorithm].append(nats.double().numpy())
    return {algorithm: np.concatenate(parts) for algorithm, parts in found.items()}


def part_size(outputs: Outputs, count: int) -> int:
    """How many of ``count`` inputs are compared at a time; ``outputs`` are those of one."""
    return max(1, min(count, MOST_NUMBERS // sum(output.size for output in outputs)))


def heads_of(task: Task, outputs: Outputs) -> Heads:
    """The outputs as distributions; floats as float64."""
    tensors = (torch.from_numpy(np.ascontiguousarray(output)) for output in outputs)
    return task.heads(tuple(value.double() if value.is_floating_point() else value for value in tensors))


def choose_calibrator(found: Mapping[Algorithm, Float[np.ndarray, "batch"]]) -> Algorithm:
    """The calibrator of least mean divergence; of equal ones the first."""
    return min(found, key=lambda algorithm: float(found[algorithm].mean()))
