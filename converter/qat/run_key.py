"""The key of a fine-tuning: what a checkpoint has to belong to for the run to go on from it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace

from converter.qat.options import QATOptions
from converter.quantize.placement import QuantizationPlan

VERSION = 1


def run_key(
    network: str, data: str, plan: QuantizationPlan, amax: Mapping[str, float], options: QATOptions
) -> str:
    """A name for all that decides the result; ``network`` and ``data`` name the weights and the inputs."""
    chosen = {name: float(amax[name]) for name in plan.observed}
    values = asdict(
        replace(options, data=None)
    )  # the images count, which ``data`` names, and not their folder
    return hashlib.sha256(repr((VERSION, network, data, plan, chosen, values)).encode()).hexdigest()
