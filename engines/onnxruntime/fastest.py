"""Which layers compute in INT8 on this machine: those whose integer kernels are the faster ones, by measured time.

Whether a layer gains depends on the machine and on its neighbours: depthwise and narrow layers are often faster in
float, but between INT8 and float values have to be converted. So three engines are profiled: all layers in INT8, all in
float, and by turns, which tells what a conversion costs. The labels with the least sum of the layers' times and of the
conversions between them are a minimum cut. As a profile does not tell all, cuts at several costs of a conversion then
race with the two engines of one kind, and the fastest is taken of those that are slower than float at no batch.
"""

import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import onnx

from engines.onnx_passes.file import load_onnx
from engines.onnx_passes.graph import OnnxGraph
from engines.onnxruntime.engine import build
from engines.onnxruntime.layers import Border, Layers
from engines.onnxruntime.stopwatch import MachineStopwatch

InFloat = tuple[str, ...]
"""Layers that compute in float, in the graph's order."""

_CONVERSIONS = (1.0, 0.5, 2.0)
"""Multiples of what a conversion was found to cost."""
_LEAST_VALUES = 10_000
"""A kernel takes as long for fewer, as far as a rule of thumb goes."""
_FLOAT, _INT8 = "float layers of the cut", "INT8 layers of the cut"


@runtime_checkable
class Stopwatch(Protocol):
    """What tells the times of engines; another one in the tests than here."""

    def layer_seconds(self, candidates: Sequence[InFloat]) -> Sequence[Mapping[str, float]]:
        """For each engine with these layers in float, the seconds an image that each layer takes; none if it fails."""
        ...

    def speeds(self, candidates: Sequence[InFloat]) -> Sequence[Mapping[int, float]]:
        """For each engine, batch → how many times as fast as the first it is; 0 if it fails."""
        ...


@dataclass(frozen=True)
class Choice:
    """``in_float`` of the ``layers`` that could be INT8; both speeds are multiples of the float engine's, by batch."""

    layers: int
    in_float: InFloat
    speed: Mapping[int, float]
    all_int8_speed: Mapping[int, float]
    engines: int
    seconds: float = 0.0


def build_fastest(onnx_path: Path, out_path: Path) -> Choice:
    """Writes the engine file of a Q/DQ network with the layers in INT8 that are faster so here; what was chosen.

    An INT8 layer computes what it did, and one in float has the weights that it had, as floats. Raises BuildError.
    """
    build(onnx_path, out_path)  # whatever is wrong with the network is told before it is measured
    model = load_onnx(onnx_path)
    choice = fastest_choice(model, out_path)
    if choice.in_float:
        build(onnx_path, out_path, choice.in_float)
    return choice


def fastest_choice(model: onnx.ModelProto, engine: Path) -> Choice:
    """The choice for a Q/DQ ``model``, of which ``engine`` is a file with all layers in INT8."""
    started = time.perf_counter()
    graph = OnnxGraph(model)
    graph.prune()
    layers = Layers(graph)
    with MachineStopwatch(model, layers.owners, engine) as stopwatch:
        choice = choose(layers.quantized, layers.borders, stopwatch)
    return replace(choice, seconds=time.perf_counter() - started)


def choose(layers: Sequence[str], borders: Sequence[Border], stopwatch: Stopwatch) -> Choice:
    """The fastest labels of ``layers`` by ``stopwatch``, none slower than all in float."""
    everything = tuple(layers)
    if not everything:
        return Choice(0, (), {}, {}, 0)
    turns = everything[::2]
    int8, in_float, mixed = stopwatch.layer_seconds([(), everything, turns])
    price = _price(turns, mixed, int8, in_float, borders, everything)
    factors = _CONVERSIONS if mixed else ()  # without it nothing tells what a conversion costs
    gains = {name: int8.get(name, 0.0) - in_float.get(name, 0.0) for name in everything}
    cuts = (cheapest(gains, borders, factor * price) for factor in factors)
    candidates = list(dict.fromkeys([everything, (), *cuts]))
    speeds = stopwatch.speeds(candidates)
    found = dict(zip(candidates, speeds, strict=True))
    best = max(candidates, key=lambda candidate: _worth(found[candidate]))
    return Choice(len(everything), best, found[best], found[()], len(candidates))


def _worth(speeds: Mapping[int, float]) -> float:
    """The geometric mean over the batches; nothing where one of them is slower than in float."""
    return math.prod(speeds.values()) ** (1 / len(speeds)) if min(speeds.values()) >= 1 else 0.0


def _price(
    turns: Collection[str],
    seconds: Mapping[str, float],
    int8: Mapping[str, float],
    in_float: Mapping[str, float],
    borders: Iterable[Border],
    layers: Collection[str],
) -> float:
    """Seconds of a converted value: what the engine by turns takes longer than its layers do, over its borders."""
    alone = sum(
        (in_float if name in turns or name not in layers else int8).get(name, 0.0) for name in seconds
    )
    values = sum(
        _weight(border)
        for border in borders
        if _is_int8(border.writer, turns, layers) != _is_int8(border.reader, turns, layers)
    )
    return max(sum(seconds.values()) - alone, 0.0) / max(values, 1)


def _is_int8(name: str, in_float: Collection[str], layers: Collection[str]) -> bool:
    return name in layers and name not in in_float


def _weight(border: Border) -> int:
    return max(border.values, _LEAST_VALUES)


def cheapest(gains: Mapping[str, float], borders: Iterable[Border], price: float) -> InFloat:
    """The layers to keep in float: the least of what they would gain in INT8, those in INT8 would gain in float, and of
    ``price`` for each value between the two.

    ``gains`` has the seconds by which float is faster than INT8. What has none is float in any case. A minimum cut, by
    Edmonds and Karp's augmenting paths; of equals it has the fewest layers in float.
    """
    room: dict[str, dict[str, float]] = {name: {} for name in (_FLOAT, _INT8, *gains)}
    for name, gain in gains.items():
        _widen(room, (_FLOAT, name) if gain > 0 else (name, _INT8), abs(gain))
    for border in borders:
        ends = [name if name in gains else _FLOAT for name in (border.writer, border.reader)]
        for one, other in (ends, ends[::-1]):
            _widen(room, (one, other), price * _weight(border))
    while True:
        before = _paths(room)
        if _INT8 not in before:
            return tuple(name for name in gains if name in before)
        way = [_INT8]
        while way[-1] != _FLOAT:
            way.append(before[way[-1]])
        steps = [(after, name) for name, after in pairwise(way)]
        least = min(room[one][other] for one, other in steps)
        for one, other in steps:
            room[one][other] -= least
            _widen(room, (other, one), least)


def _widen(room: dict[str, dict[str, float]], edge: tuple[str, str], amount: float) -> None:
    one, other = edge
    if one != other:
        room[one][other] = room[one].get(other, 0.0) + amount


def _paths(room: Mapping[str, Mapping[str, float]]) -> dict[str, str]:
    """What can be reached from the float side, each with what comes before it on a shortest way."""
    before, waiting = {_FLOAT: _FLOAT}, deque([_FLOAT])
    while waiting:
        name = waiting.popleft()
        for other, left in room[name].items():
            if left > 1e-12 and other not in before:  # a picosecond: what rounding leaves
                before[other] = name
                waiting.append(other)
    return before
