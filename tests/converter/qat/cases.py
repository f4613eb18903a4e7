"""What the tests of the fine-tuning share: a small network, its ranges, and inputs for it."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn

from calibrators.batches import Batch
from calibrators.distributed import ALONE, Ranks
from converter.graph import FoldedGraph
from converter.placement import QuantizationPlan
from converter.qat.options import QATOptions
from converter.qat.training import TuningState
from converter.qat.tuning import untuned
from tests.converter.networks import Residual
from tests.converter.reference import SHAPES, graph_of, inputs_of, planned

OPTIONS = QATOptions(steps=20, num_bits=4, learning_rate=5e-3, ema=0.8)
BATCH = 16


@dataclass(frozen=True)
class Noise:
    """Normal random inputs, ``scale`` times as wide."""

    shape: tuple[int, int, int]
    batch: int = BATCH
    scale: float = 1.0

    @property
    def name(self) -> str:
        return "images"

    def inputs(self, step: int, ranks: Ranks = ALONE) -> Batch:
        x = self.scale * torch.randn(self.batch, *self.shape, generator=torch.Generator().manual_seed(step))
        return ranks.share(x), torch.full((self.batch // ranks.world,), -1)

    def held_out(self, ranks: Ranks = ALONE) -> Iterator[Batch]:
        for number in range(4):
            yield self.inputs(1000 + number, ranks)


def noise_for(network: type[nn.Module], **given: float) -> Noise:
    return replace(Noise(SHAPES[network]), **given)


@cache
def case(network: type[nn.Module] = Residual) -> tuple[FoldedGraph, QuantizationPlan, dict[str, float]]:
    """The folded graph, its plan, and each range as the largest |value|."""
    graph = graph_of(network)
    return graph, *planned(graph, inputs_of(network, 32))


def fresh(options: QATOptions = OPTIONS, network: type[nn.Module] = Residual) -> TuningState:
    return untuned(*case(network), options)


def clone(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in values.items()}
