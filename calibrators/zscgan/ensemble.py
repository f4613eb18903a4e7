"""Several generators that make samples together."""

from collections.abc import Iterable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from calibrators.data.batches import send
from calibrators.zscgan.generator import Generator, GeneratorConfig
from calibrators.zscgan.training import draw


class Ensemble(nn.Module):
    """Generators of one configuration, each trained on its own.

    Two trainings err in different directions: on some networks the ranges over the samples of both are nearer to the
    true ones than those of one generator that was trained for as long as the two together (``docs/method.md``).
    """

    def __init__(self, members: Iterable[Generator]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    @property
    def config(self) -> GeneratorConfig:
        """What all members have in common."""
        config = self.members[0].config
        assert isinstance(config, GeneratorConfig)
        return config

    def conditions(self) -> Int[Tensor, "conditions 2"]:
        """Member and class of all that can be asked for: all classes of the first member, then those of the next."""
        return torch.cartesian_prod(torch.arange(len(self.members)), self.config.labels())

    def draw(
        self, count: int, seed: int, place: int
    ) -> tuple[Float[Tensor, "batch latent"], Int[Tensor, "batch 2"]]:
        """Latent vectors and conditions, evenly over all conditions, for one ``place`` in a seed's random numbers.

        The conditions are on the CPU, so that dealing them out to the members waits for no GPU.
        """
        cpu = torch.device("cpu")
        z, conditions = draw(self.conditions(), self.config.latent, count, seed, place, cpu)
        return send(z, next(self.parameters()).device), conditions

    def forward(
        self, z: Float[Tensor, "batch latent"], conditions: Int[Tensor, "batch 2"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Each sample by the member, and of the class, that its condition names."""
        turns, labels = conditions.unbind(1)
        x = z.new_empty(len(z), *self.config.spec.shape).to(memory_format=torch.channels_last)
        for number, member in enumerate(self.members):
            own = (turns == number).nonzero().squeeze(1)
            if len(own) > 0:
                rows = send(own, z.device)
                x[rows] = member(z[rows], send(labels[own], z.device))
        return x
