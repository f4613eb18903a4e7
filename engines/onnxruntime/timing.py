"""Measured times on this machine: of each layer of an engine, and of whole engines that take turns."""

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from engines.onnx_passes.file import reads
from engines.onnxruntime.session import session_options

_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class Effort:
    """How long is measured: ``runs`` or, where these take longer, ``seconds``, but at least ``least_runs``."""

    runs: int
    seconds: float
    least_runs: int = 3

    def goes_on(self, done: int, started: float) -> bool:
        """Whether another run follows the ``done`` that began at ``started``, by ``time.perf_counter``."""
        return done < self.least_runs or (done < self.runs and time.perf_counter() - started < self.seconds)


def layer_seconds(
    paths: Sequence[Path], owners: Mapping[str, str], x: NDArray[np.float32], effort: Effort
) -> list[dict[str, float]]:
    """Seconds that each layer's kernels take for ``x`` in each engine, by ONNX Runtime's profiler.

    ``owners`` has the layers of the tensors of the network that the engines were made of. What runs in ONNX Runtime is
    another graph: fused, in other layouts, with conversions between. A kernel counts for the tensor that its result, or
    else its node, is named after, as the passes append to names; without one, for the layer that made its input. It's
    the shortest run of each, as other programs on the machine can only make it longer; the engines take turns.
    """
    with TemporaryDirectory() as folder:
        executed = [Path(folder) / f"{position}.onnx" for position in range(len(paths))]
        sessions = [_profiled(path, graph) for path, graph in zip(paths, executed, strict=True)]
        name, started, done = sessions[0].get_inputs()[0].name, time.perf_counter(), 0
        while effort.goes_on(done, started):
            for session in sessions:
                session.run(None, {name: x})
            done += 1
        return [
            _by_layer(graph, _shortest(Path(session.end_profiling())), owners)
            for session, graph in zip(sessions, executed, strict=True)
        ]


def _profiled(path: Path, executed: Path) -> ort.InferenceSession:
    """A session that profiles, and writes the graph that it runs to ``executed``."""
    options = session_options(None)
    options.optimized_model_filepath = str(executed)
    options.enable_profiling = True
    options.profile_file_prefix = str(executed.with_suffix(""))
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _by_layer(executed: Path, kernels: Mapping[str, float], owners: Mapping[str, str]) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for node, owner in _owned(onnx.load(executed, load_external_data=False).graph.node, owners):
        seconds[owner] += kernels.get(node.name, 0.0)
    return dict(seconds)


def _shortest(profile: Path) -> dict[str, float]:
    """Seconds of the shortest run of each kernel, by the name of its node."""
    found: dict[str, float] = {}
    for event in json.loads(profile.read_text()):
        name = event.get("name", "")
        if event.get("cat") == "Node" and name.endswith(_KERNEL):
            node, seconds = name.removesuffix(_KERNEL), event["dur"] / 1e6
            found[node] = min(seconds, found.get(node, seconds))
    return found


def _owned(nodes: Sequence[onnx.NodeProto], owners: Mapping[str, str]) -> list[tuple[onnx.NodeProto, str]]:
    """Each node with its layer; those that depend on no input are left out."""
    layers, found = dict(owners), []
    for node in nodes:
        named = _named_after(node.output[0], owners) or _named_after(node.name, owners)
        sources = [layers[name] for name in reads(node) if name in layers]
        if named is None and not sources:
            continue
        owner = owners[named] if named is not None else sources[0]
        layers.update(dict.fromkeys(node.output, owner))
        found.append((node, owner))
    return found


def _named_after(name: str, tensors: Mapping[str, str]) -> str | None:
    """The tensor to whose name passes have appended words to make ``name``."""
    while name and name not in tensors:
        name = name.rpartition("_")[0]
    return name or None


def race(sessions: Sequence[ort.InferenceSession], x: NDArray[np.float32], effort: Effort) -> list[float]:
    """How many times as fast as the first of ``sessions`` each is on ``x``, by the lower quartile of its runs.

    In a round each runs once, every round beginning with another, so that what slows the machine slows all of them; and
    the lower quartile, as that can only make a run longer.
    """
    name = sessions[0].get_inputs()[0].name
    for session in sessions:
        session.run(None, {name: x})
    rounds: list[list[float]] = []
    started = time.perf_counter()
    while effort.goes_on(len(rounds), started):
        seconds = [0.0] * len(sessions)
        for step in range(len(sessions)):
            position = (len(rounds) + step) % len(sessions)
            before = time.perf_counter()
            sessions[position].run(None, {name: x})
            seconds[position] = time.perf_counter() - before
        rounds.append(seconds)
    quartiles = np.quantile(np.array(rounds), 0.25, axis=0)
    return [float(quartiles[0] / each) for each in quartiles]
