"""The fewest layers to keep out of INT8 so that the loss of accuracy stays within a target.

Groups of layers (``quantize.layer_groups``) leave INT8 in the order of what that gains for what it costs, by the
estimate of ``trust.sensitivity``; how many have to, the network itself says: each candidate is built and run. Doubling
finds a number that is enough, halving the least that is, and then each group is tried in INT8 again, the least
useful first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx

from converter.graph.layer_sizes import layers_from_onnx
from converter.quantize.layer_groups import Group, groups_from_onnx
from converter.quantize.placement import QuantizationPlan, place_quantizers
from converter.trust.sensitivity import Sensitivity

MOST_TRIES = 32
"""Candidates that are run, at most."""

LEAST_INT8 = 50.0
"""Percent of the multiply-adds that stay in INT8; with less it would be no INT8 network."""

Excluded = frozenset[int]
"""The groups that are kept in float, by their positions."""


@dataclass(frozen=True)
class Choice:
    """What the search found.

    ``drop`` is that of the groups ``excluded``, and ``met`` whether it is within the target; where no candidate is, it
    is the best of those that were tried. ``without`` maps excluded groups to the drop with that one in INT8 again,
    where that was tried.
    """

    excluded: Excluded
    drop: float
    met: bool
    all_int8_drop: float
    without: dict[int, float]
    tried: int


@dataclass(frozen=True)
class Candidates:
    """The groups of a model, and the plan of any choice among them."""

    model: onnx.ModelProto
    groups: tuple[Group, ...]
    macs: int

    def plan(self, excluded: Excluded) -> QuantizationPlan:
        """The quantizers of all but the ``excluded`` groups."""
        return place_quantizers(self.model, excluded=self.layers(excluded))

    def layers(self, excluded: Excluded) -> tuple[str, ...]:
        """The layers of the ``excluded`` groups, in the graph's order."""
        return tuple(layer for position in sorted(excluded) for layer in self.groups[position].layers)

    def macs_share(self, groups: Excluded) -> float:
        """Percent of the network's multiply-adds that ``groups`` have."""
        return 100.0 * sum(self.groups[position].macs for position in groups) / max(self.macs, 1)


def candidates_from_onnx(model: onnx.ModelProto, plan: QuantizationPlan) -> Candidates:
    """The choices that there are for ``plan``, which was made for ``model``."""
    macs = sum(layer.macs for layer in layers_from_onnx(model).values())
    return Candidates(model, groups_from_onnx(model, plan), macs)


def order_of_exclusion(candidates: Candidates, sensitivity: Sensitivity) -> list[int]:
    """Positions of the groups, the one first whose exclusion gains most for its cost; then the next of the rest.

    The gain is by how much the divergence of the network falls, with the errors of all that remains; the cost is the
    mean of the group's share of the layers and of the multiply-adds, as both are to stay in INT8. A group that would
    leave less than ``LEAST_INT8`` there is left out.
    """
    groups = candidates.groups
    layers = sum(len(group.layers) for group in groups)
    budget = sum(group.macs for group in groups) - LEAST_INT8 / 100 * candidates.macs
    left, order = frozenset(sensitivity.parts), list[int]()
    while True:
        fitting = [p for p, group in enumerate(groups) if p not in order and group.macs <= budget]
        if not fitting:
            return order
        gains = {p: sensitivity.kl(left) - sensitivity.kl(left - groups[p].parts) for p in fitting}
        costs = {
            p: len(groups[p].layers) / layers + groups[p].macs / max(candidates.macs, 1) for p in fitting
        }
        best = max(fitting, key=lambda p: _worth(gains[p], costs[p]))
        order.append(best)
        left -= groups[best].parts
        budget -= groups[best].macs


def _worth(gain: float, cost: float) -> float:
    return gain / cost if gain > 0 else gain * cost


@dataclass
class _Trials:
    """Runs each candidate once."""

    drop_of: Callable[[Excluded], float]
    drops: dict[Excluded, float] = field(default_factory=dict)

    def drop(self, excluded: Excluded) -> float:
        if excluded not in self.drops:
            self.drops[excluded] = round(self.drop_of(excluded), 6)  # 92.4 - 91.8 is a little more than 0.6
        return self.drops[excluded]

    def best(self) -> Excluded:
        return min(self.drops, key=lambda excluded: (self.drops[excluded], len(excluded), sorted(excluded)))


def fewest_excluded(
    order: Sequence[int],
    drop_of: Callable[[Excluded], float],
    target: float,
    most_tries: int = MOST_TRIES,
) -> Choice:
    """The fewest groups of ``order`` without which ``drop_of`` is at most ``target``, by at most ``most_tries`` runs.

    It is the fewest as far as the groups' worth has the order right: no single one of them can be given back, where
    the tries suffice for that.
    """
    trials = _Trials(drop_of)
    number = _enough(order, trials, target)
    if number is None:
        excluded = trials.best()
    else:
        excluded = frozenset(order[:number])
        for position in reversed(order[: max(number - 1, 0)]):  # without the last one it is too few
            if len(trials.drops) >= most_tries:
                break
            if trials.drop(excluded - {position}) <= target:
                excluded -= {position}
    without = {}
    for position in sorted(excluded):
        fewer = excluded - {position}
        if fewer in trials.drops or len(trials.drops) < most_tries:
            without[position] = trials.drop(fewer)
    drop = trials.drops[excluded]
    return Choice(excluded, drop, drop <= target, trials.drops[frozenset()], without, len(trials.drops))


def _enough(order: Sequence[int], trials: _Trials, target: float) -> int | None:
    """How many groups from the front of ``order`` are enough; None where all of them are not."""

    def enough(number: int) -> bool:
        return trials.drop(frozenset(order[:number])) <= target

    if enough(0):
        return 0
    too_few, number = 0, 1
    while not enough(min(number, len(order))):
        too_few = min(number, len(order))
        if too_few == len(order):
            return None
        number *= 2
    number = min(number, len(order))
    while number - too_few > 1:
        middle = (number + too_few) // 2
        if enough(middle):
            number = middle
        else:
            too_few = middle
    return number
