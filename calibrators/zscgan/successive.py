"""Training several generators, one after the other."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from calibrators.data.input_spec import InputSpec
from calibrators.distributed import SINGLE, Ranks
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.training import Step, TrainingState, new_config, new_state, train_generator


@dataclass
class EnsembleState:
    """The training of each generator, the finished ones, the one in progress and those to come."""

    members: list[TrainingState]

    @property
    def step(self) -> int:
        """Steps done by all."""
        return sum(member.step for member in self.members)

    @property
    def newest(self) -> TrainingState:
        """The training in progress, or the last one."""
        return [self.members[0], *(member for member in self.members if member.step)][-1]

    @property
    def history(self) -> list[Step]:
        """The losses of all steps, counted through all trainings."""
        steps = [step for member in self.members for step in member.history]
        return [replace(step, step=number) for number, step in enumerate(steps)]

    @property
    def seconds(self) -> float:
        """Time spent by all."""
        return sum(member.seconds for member in self.members)

    @property
    def ensemble(self) -> Ensemble:
        """The generators as they are."""
        return Ensemble(member.generator for member in self.members)

    def dump(self) -> dict[str, Any]:
        """Plain values and tensors, for ``torch.save``."""
        return {"members": [member.dump() for member in self.members]}

    def restore(self, dump: dict[str, Any]) -> None:
        """Go on from ``dump``."""
        for member, dumped in zip(self.members, dump["members"], strict=True):
            member.restore(dumped)


def new_ensemble(
    spec: InputSpec, classes: int, options: ZSCGANOptions, device: torch.device
) -> EnsembleState:
    """Untrained generators, as many as ``options`` say."""
    shares = shares_for(spec, classes, options)
    return EnsembleState([new_state(new_config(spec, classes, share), share, device) for share in shares])


def shares_for(spec: InputSpec, classes: int, options: ZSCGANOptions) -> list[ZSCGANOptions]:
    """The options of each generator."""
    return options.shares(classes, options.batch_for(*spec.shape[1:]))


def train_ensemble(
    teacher: nn.Module,
    spec: InputSpec,
    classes: int,
    options: ZSCGANOptions,
    *,
    state: EnsembleState | None = None,
    on_step: Callable[[EnsembleState], None] = lambda _: None,
    ranks: Ranks = SINGLE,
) -> EnsembleState:
    """Generators that were trained by ``train_generator``, each for its share of the steps.

    ``state`` goes on from an earlier run; ``on_step`` is called after each step of each. Raises what
    ``train_generator`` raises.
    """
    whole = state or new_ensemble(spec, classes, options, next(teacher.parameters()).device)

    def after_step(_member: TrainingState) -> None:
        on_step(whole)

    for member, share in zip(whole.members, shares_for(spec, classes, options), strict=True):
        train_generator(teacher, spec, classes, share, state=member, on_step=after_step, ranks=ranks)
    return whole
