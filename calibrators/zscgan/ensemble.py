"""Several generators that make samples together."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calibrators.inputs import InputSpec
from calibrators.zscgan.generator import Generator
from calibrators.zscgan.training import draw


class Ensemble(nn.Module):
    """Generators for the same inputs, each trained on its own.

    Two trainings err in different directions: ranges over the samples of both are nearer to the true ones than those
    of a single generator trained for as long as the two together (``docs/method.md``).
    """

    def __init__(self, members: Iterable[Generator]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def generators(self) -> list[Generator]:
        """The members."""
        return [member for member in self.members if isinstance(member, Generator)]

    @property
    def spec(self) -> InputSpec:
        """What all members make."""
        return self.generators[0].config.spec

    def conditions(self) -> Int[Tensor, "conditions 2"]:
        """Member and class of all that can be asked for: the classes of the first member, then those of the next."""
        labels = [member.config.labels() for member in self.generators]
        return torch.cat(
            [torch.stack([torch.full_like(own, number), own], 1) for number, own in enumerate(labels)]
        )

    def classes(self) -> list[int]:
        """The classes that were trained, in order."""
        trained: list[int] = self.conditions()[:, 1].unique().tolist()
        return trained

    def draw(
        self, count: int, seed: int, place: int
    ) -> tuple[Float[Tensor, "batch latent"], Int[Tensor, "batch 2"]]:
        """Latent vectors and conditions, evenly over all conditions, for one ``place`` in a seed's random numbers."""
        device = next(self.parameters()).device
        return draw(self.conditions(), self.generators[0].config.latent, count, seed, place, device)

    def forward(
        self, z: Float[Tensor, "batch latent"], conditions: Int[Tensor, "batch 2"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Each sample by the member that its condition names, of the class that it names."""
        members, labels = conditions.unbind(1)
        x = z.new_empty(len(z), *self.spec.shape).to(memory_format=torch.channels_last)
        for number, member in enumerate(self.members):
            own = members == number
            if own.any():
                x[own] = member(z[own], labels[own])
        return x
