"""The times of a network's engines on this machine, whichever layers are in float."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

import onnx
import onnxruntime as ort

from engines.measurement import noise
from engines.onnxruntime.engine import OnnxRuntimeEngine
from engines.onnxruntime.lowering import lower_qdq
from engines.onnxruntime.session import session_options
from engines.onnxruntime.timing import Effort, layer_seconds, race

_BATCHES = (1, 8)
_PROFILE = Effort(runs=40, seconds=2.0)
_RACE = Effort(runs=80, seconds=3.0, least_runs=5)
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

    def layer_seconds(self, candidates: Sequence[tuple[str, ...]]) -> Sequence[Mapping[str, float]]:
        """For each engine, the seconds an image that each layer takes, the mean over the batches."""
        paths = [self._file(candidate) for candidate in candidates]
        seconds: list[dict[str, float]] = [defaultdict(float) for _ in candidates]
        for batch in self._batches:
            found = layer_seconds(paths, self._owners, noise(batch, self._shape, 0), _PROFILE)
            for sums, layers in zip(seconds, found, strict=True):
                for name, value in layers.items():
                    sums[name] += value / batch / len(self._batches)
        return seconds

    def speeds(self, candidates: Sequence[tuple[str, ...]]) -> Sequence[Mapping[int, float]]:
        """For each engine, batch → how many times as fast as the first it is."""
        sessions = [
            ort.InferenceSession(
                str(self._file(candidate)), session_options(None), providers=["CPUExecutionProvider"]
            )
            for candidate in candidates
        ]
        found: list[dict[int, float]] = [{} for _ in candidates]
        for batch in self._batches:
            for speeds, speed in zip(found, race(sessions, noise(batch, self._shape, 0), _RACE), strict=True):
                speeds[batch] = speed
        return found

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
        self._stack.close()


def _batches(engine: OnnxRuntimeEngine) -> tuple[int, ...]:
    """What is measured: one image, and several where that is no work for all cores yet."""
    if engine.fixed_batch is not None:
        return (engine.fixed_batch,)
    x = noise(1, engine.input_shape, 0)
    engine.run(x)
    started = time.perf_counter()
    engine.run(x)
    return _BATCHES if time.perf_counter() - started < _SLOW_S else (1,)
