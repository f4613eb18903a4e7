"""What the tests of the fine-tuning share: a small network, its ranges, and inputs for it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import nn

from calibrators.data.batches import Batch
from calibrators.data.input_spec import InputSpec
from calibrators.distributed import SINGLE, Ranks
from converter.graph.capture import FoldedGraph, graph_from_model
from converter.qat.fine_tune import new_tuning
from converter.qat.options import QATOptions
from converter.qat.training import TuningState
from converter.quantize.placement import QuantizationPlan
from converter.trust.task.classes import Classes
from tests.converter.networks import Residual
from tests.converter.reference import SHAPES, graph_of, planned, seeded_model

OPTIONS = QATOptions(steps=20, num_bits=3, learning_rate=1e-3, ema=0.8)
BATCH = 16
TASK = Classes(5)


@dataclass(frozen=True)
class Noise:
    """Normal random inputs whose channels have random means, so that not all are alike; ``scale`` times as wide."""

    shape: tuple[int, int, int]
    batch: int = BATCH
    scale: float = 1.0

    @property
    def name(self) -> str:
        return "images"

    def inputs(self, step: int, ranks: Ranks = SINGLE) -> Batch:
        generator = torch.Generator().manual_seed(step)
        means = torch.randn(self.batch, self.shape[0], 1, 1, generator=generator)
        x = means + torch.randn(self.batch, *self.shape, generator=generator)
        return ranks.share(self.scale * x), torch.full((self.batch // ranks.world,), -1)

    def held_out(self, ranks: Ranks = SINGLE) -> Iterator[Batch]:
        for number in range(4):
            yield self.inputs(1000 + number, ranks)


def noise_for(network: type[nn.Module], **given: float) -> Noise:
    return replace(Noise(SHAPES[network]), **given)


@cache
def case(network: type[nn.Module] = Residual) -> tuple[FoldedGraph, QuantizationPlan, dict[str, float]]:
    """The folded graph, its plan, and each range as the largest |value|. Residual is made surer of its classes."""
    graph = graph_of(network)
    if network is Residual:
        model = seeded_model(network)
        with torch.no_grad():
            model.fc.weight.mul_(20)
        graph = graph_from_model(model, InputSpec(SHAPES[network]))
    return graph, *planned(graph, torch.cat([x for x, _ in noise_for(network).held_out()]))


def fresh(options: QATOptions = OPTIONS, network: type[nn.Module] = Residual) -> TuningState:
    return new_tuning(*case(network), options)
