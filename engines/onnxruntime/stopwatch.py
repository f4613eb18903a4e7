"""The times of a network's engines on this machine, whichever layers are in float."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from engines.measurement import noise
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.onnxruntime.lowering import lower_qdq
from engines.onnxruntime.session import REFUSALS, session_options
from engines.onnxruntime.timing import Effort, layer_seconds, race

_BATCHES = (1, 8)
_PROFILE = Effort(runs=40, seconds=2.0)
_RACE = Effort(runs=80, seconds=3.0, least_runs=5)
_NEAR = 0.5
"""Of an output's standard deviation; roundings change a hundredth, a wrong layout more than all of it."""
_ROUNDING = 1e-4
_SLOW_S = 0.15
"""From here on an image has work for all cores alone, and larger batches are not measured."""


class MachineStopwatch:
    """Builds engines of a Q/DQ ``model`` as they are asked for, and measures them with all cores.

    ``owners`` has the layer of each tensor, ``engine`` is a file with all layers in INT8.
    """

    def __init__(self, model: onnx.ModelProto, owners: Mapping[str, str], engine: Path) -> None:
        self._model, self._owners = model, owners
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(TemporaryDirectory()))
        with OnnxRuntimeEngine(engine) as opened:
            self._shape = opened.input_shape
            self._batches = _batches(opened)
        self._files: dict[tuple[str, ...], Path] = {(): engine}
        self._sessions: dict[tuple[str, ...], ort.InferenceSession | None] = {}

    def layer_seconds(self, candidates: Sequence[tuple[str, ...]]) -> Sequence[Mapping[str, float]]:
        """For each engine, the seconds an image that each layer takes, the mean over the batches; none if it fails."""
        seconds: list[dict[str, float]] = [defaultdict(float) for _ in candidates]
        running = [
            (self._file(candidate), sums)
            for candidate, sums in zip(candidates, seconds, strict=True)
            if self._opened(candidate) is not None
        ]
        for batch in self._batches:
            paths = [path for path, _ in running]
            found = layer_seconds(paths, self._owners, noise(batch, self._shape, 0), _PROFILE)
            for (_, sums), layers in zip(running, found, strict=True):
                for name, value in layers.items():
                    sums[name] += value / batch / len(self._batches)
        return seconds

    def speeds(self, candidates: Sequence[tuple[str, ...]]) -> Sequence[Mapping[int, float]]:
        """For each engine, batch → how many times as fast as the first it is; 0 for one that fails to run."""
        opened = [self._opened(candidate) for candidate in candidates]
        sessions = [session for session in opened if session is not None]
        found: list[dict[int, float]] = [dict.fromkeys(self._batches, 0.0) for _ in candidates]
        for batch in self._batches:
            speeds = iter(race(sessions, noise(batch, self._shape, 0), _RACE))
            for session, entry in zip(opened, found, strict=True):
                if session is not None:
                    entry[batch] = next(speeds)
        return found

    def _opened(self, in_float: tuple[str, ...]) -> ort.InferenceSession | None:
        """A session of the engine, or None where ONNX Runtime's passes break it: some mixtures of layouts do that."""
        if in_float not in self._sessions:
            self._sessions[in_float] = self._checked(in_float)
        return self._sessions[in_float]

    def _checked(self, in_float: tuple[str, ...]) -> ort.InferenceSession | None:
        path = str(self._file(in_float))
        plain = session_options(None)
        plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session, literal = (
                ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
                for options in (session_options(None), plain)
            )
            found = [_outputs(session, noise(batch, self._shape, 0)) for batch in self._batches]
            expected = _outputs(literal, noise(self._batches[0], self._shape, 0))
        except REFUSALS:
            return None
        return session if is_near(found[0], expected) else None

    def _file(self, in_float: tuple[str, ...]) -> Path:
        if in_float not in self._files:
            path = self._folder / f"{len(self._files)}.onnx"
            onnx.save_model(lower_qdq(self._model, in_float), path)
            self._files[in_float] = path
        return self._files[in_float]

    def __enter__(self) -> "MachineStopwatch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sessions.clear()
        self._stack.close()


def _outputs(session: ort.InferenceSession, x: NDArray[np.float32]) -> list[NDArray[Any]]:
    found: list[NDArray[Any]] = session.run(None, {session.get_inputs()[0].name: x})
    return found


def is_near(found: Sequence[NDArray[Any]], expected: Sequence[NDArray[Any]]) -> bool:
    """Whether outputs differ by what roundings at the border of two codes do, and not by as much as their values do.

    Only floats are compared, and not those that there are more of in one of both, as behind a NonMaxSuppression.
    """
    for one, other in zip(found, expected, strict=True):
        if other.dtype.kind != "f" or one.shape != other.shape or not other.size:
            continue
        rms = float(np.sqrt(np.mean(np.square(one - other))))
        if not rms <= _NEAR * float(other.std()) + _ROUNDING * float(np.abs(other).max()):  # nor NaN
            return False
    return True


def _batches(engine: OnnxRuntimeEngine) -> tuple[int, ...]:
    """What is measured: one image, and several where that is no work for all cores yet."""
    if engine.fixed_batch is not None:
        return (engine.fixed_batch,)
    x = noise(1, engine.input_shape, 0)
    engine.run(x)
    started = time.perf_counter()
    engine.run(x)
    return _BATCHES if time.perf_counter() - started < _SLOW_S else (1,)
