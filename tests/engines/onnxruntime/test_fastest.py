"""Which layers stay in float, by the times of a watch that is told them; and the true watch on a small network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np
import onnx
import pytest

from engines.onnxruntime.engine import OnnxRuntimeEngine, int8_kernels
from engines.onnxruntime.fastest import InFloat, build_fastest, cheapest, choose
from engines.onnxruntime.layers import Border
from tests.engines.networks import small_network

NAMES = ("a", "b", "c", "d", "e", "f")
MILLION = 1_000_000


def chain(values: int = MILLION) -> list[Border]:
    """The input, and each layer of NAMES on the one before it."""
    return [Border(one, other, values) for one, other in zip(("input", *NAMES), NAMES, strict=False)]


@dataclass
class Told:
    """A machine on which a layer takes these milliseconds, and a conversion ``convert`` a million values."""

    int8: Mapping[str, float]
    in_float: Mapping[str, float]
    convert: float = 0.0
    borders: Sequence[Border] = field(default_factory=chain)
    raced: dict[InFloat, Mapping[int, float]] = field(default_factory=dict)
    batch_8: float = 1.0
    """Of the speed of what is not all in float, at batch 8."""

    def milliseconds(self, in_float: InFloat) -> dict[str, float]:
        is_float = {name: name in in_float or name not in NAMES for name in ("input", *NAMES)}
        found = {name: (self.in_float if is_float[name] else self.int8)[name] for name in NAMES}
        for border in self.borders:
            if is_float[border.writer] != is_float[border.reader]:
                found[border.reader] += self.convert * border.values / MILLION
        return found

    def layer_seconds(self, candidates: Sequence[InFloat]) -> list[Mapping[str, float]]:
        return [{n: ms / 1000 for n, ms in self.milliseconds(each).items()} for each in candidates]

    def speeds(self, candidates: Sequence[InFloat]) -> list[Mapping[int, float]]:
        assert candidates[0] == NAMES
        base = sum(self.milliseconds(NAMES).values())
        for each in candidates:
            speed = base / sum(self.milliseconds(each).values())
            self.raced[each] = {1: speed, 8: speed * (1.0 if each == NAMES else self.batch_8)}
        return [self.raced[each] for each in candidates]


def times(**faster: float) -> tuple[dict[str, float], dict[str, float]]:
    """10 ms of each layer in float, and in INT8 what is said, else 5."""
    return {name: faster.get(name, 5.0) for name in NAMES}, dict.fromkeys(NAMES, 10.0)


def test_layers_that_are_slower_in_int8_stay_float() -> None:
    watch = Told(*times(b=30.0, e=11.0))
    choice = choose(NAMES, chain(), watch)
    assert choice.in_float == ("b", "e")
    assert choice.layers == len(NAMES)
    assert choice.speed == {1: pytest.approx(60 / 40), 8: pytest.approx(60 / 40)}
    assert choice.all_int8_speed == {1: pytest.approx(60 / 61), 8: pytest.approx(60 / 61)}


def test_a_conversion_has_to_pay() -> None:
    """e gains 1 ms in float, which two conversions of 2 ms cost; b gains 20."""
    watch = Told(*times(b=30.0, e=11.0), convert=2.0)
    assert choose(NAMES, chain(), watch).in_float == ("b",)


def test_a_run_of_layers_shares_its_conversions() -> None:
    """None of c, d and e alone is worth two conversions; together they are."""
    watch = Told(*times(c=13.0, d=13.0, e=13.0), convert=2.0)
    assert choose(NAMES, chain(), watch).in_float == ("c", "d", "e")
    alone = Told(*times(d=13.0), convert=2.0)
    assert choose(NAMES, chain(), alone).in_float == ()


def test_all_in_int8_where_each_layer_gains() -> None:
    assert choose(NAMES, chain(), Told(*times(), convert=0.1)).in_float == ()


def test_all_in_float_where_none_gains() -> None:
    watch = Told(*times(**dict.fromkeys(NAMES, 12.0)), convert=0.5)
    choice = choose(NAMES, chain(), watch)
    assert (choice.in_float, choice.speed) == (NAMES, {1: 1.0, 8: 1.0})


def test_the_race_decides_and_not_the_profile() -> None:
    """By the profile b alone would be float; in the race every engine with INT8 is the slower one at batch 8."""
    watch = Told(*times(b=30.0), batch_8=0.5)
    choice = choose(NAMES, chain(), watch)
    assert watch.raced["b",][1] > 1 > watch.raced["b",][8]
    assert choice.in_float == NAMES


def test_nothing_to_choose_is_not_measured() -> None:
    choice = choose((), [], Told({}, {}))
    assert (choice.layers, choice.in_float, choice.engines) == (0, (), 0)


def test_without_the_price_of_a_conversion_the_engines_of_one_kind_race() -> None:
    """As where the engine by turns fails."""
    watch = Told(*times(b=30.0))
    known = watch.layer_seconds
    watch.layer_seconds = lambda candidates: [*known(candidates[:2]), {}]  # type: ignore[method-assign]
    assert choose(NAMES, chain(), watch).in_float == ()
    assert set(watch.raced) == {NAMES, ()}


def test_layers_without_times_are_no_failure() -> None:
    """As where a kernel's name tells no layer."""
    watch = Told(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, 1.0))
    watch.layer_seconds = lambda candidates: [{} for _ in candidates]  # type: ignore[method-assign]
    assert choose(NAMES, chain(), watch).in_float == NAMES  # all are equal


@pytest.mark.parametrize("seed", range(6))
def test_the_cut_is_the_cheapest_of_all(seed: int) -> None:
    """Against every choice, on random graphs."""
    rng = np.random.default_rng(seed)
    gains = dict(zip(NAMES, map(float, rng.normal(size=len(NAMES))), strict=True))
    pairs = list(combinations(("input", *NAMES), 2))
    borders = [Border(*pair, int(rng.integers(10_000, 10 * MILLION))) for pair in pairs if rng.random() < 0.5]
    price = 1e-7

    def cost(in_float: InFloat) -> float:
        is_float = {name: name in in_float or name == "input" for name in ("input", *NAMES)}
        cut = sum(b.values for b in borders if is_float[b.writer] != is_float[b.reader])
        return price * cut - sum(gains[name] for name in in_float)

    choices = [chosen for count in range(len(NAMES) + 1) for chosen in combinations(NAMES, count)]
    assert cost(cheapest(gains, borders, price)) == pytest.approx(min(map(cost, choices)))


def test_an_engine_is_built_with_what_this_machine_says(tmp_path: Path) -> None:
    """Whatever is faster here: the engine has these layers in float, and gives the network's numbers."""
    model = small_network()
    onnx.save(model, tmp_path / "qdq.onnx")
    choice = build_fastest(tmp_path / "qdq.onnx", tmp_path / "engine.onnx")
    assert choice.layers == 4
    assert choice.engines >= 2
    assert set(choice.speed) == set(choice.all_int8_speed) == {1, 8}
    assert all(speed >= 1 for speed in choice.speed.values())
    convolutions = [node.output[0] for node in model.graph.node if node.op_type == "Conv"]
    in_int8 = len(set(convolutions).difference(choice.in_float))
    assert int8_kernels(tmp_path / "engine.onnx") == (in_int8, len(convolutions))
    with OnnxRuntimeEngine(tmp_path / "engine.onnx") as engine:
        assert engine.run(np.zeros((2, 3, 8, 8), np.float32)).shape == (2, 5)
