"""Timing queries on a GPU, by the rules and in the words of trtexec.

A query is one batch: its input goes to the GPU (H2D), is computed, and all outputs come back (D2H). These three
run on streams of their own, and a second query is enqueued before the first is done, so that transfers hide
behind the computing of another query. CUDA events tell what each part took; latency is the sum of the three, and
throughput the queries by the time from the first start to the last end. Enqueue time is what the host spends to
start the computing. ``streams`` contexts have queries of their own under way at the same time.

Waiting for an event lets the host's thread sleep, as trtexec does unless it is told to spin.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np

from engines.base import Engine
from engines.errors import BuildError
from engines.measurement import Clock, Throughput, latency_of, noise, summary
from engines.memory.base import Device, Event, Graph, Stream
from engines.options import BenchOptions
from engines.tensorrt.execution import Execution
from zscgan_common.warning_message import WarningMessage

_DEPTH = 2  # queries of one context under way at a time
_STREAMS_EACH = 3
_UNSTABLE_PERCENT = 2.5
_ENQUEUE_BOUND = 0.8


@dataclass(frozen=True)
class Trace:
    """One query in milliseconds; ``start`` and ``end`` on the GPU's clock since the measurement began."""

    enqueue: float
    h2d: float
    gpu_compute: float
    d2h: float
    start: float
    end: float

    @property
    def latency(self) -> float:
        return self.h2d + self.gpu_compute + self.d2h


def rules_followed(options: BenchOptions) -> str:
    """Which trtexec's defaults the figures compare with, in words: its version 11 turned those of 10 round."""
    what = (
        f"{'with' if options.transfers else 'without'} transfers, "
        f"{'as one CUDA graph' if options.cuda_graph else 'without CUDA graph'}"
    )
    if options.transfers and not options.cuda_graph:
        return f"{what}: the defaults of trtexec 10"
    if options.cuda_graph and not options.transfers:
        return f"{what}: the defaults of trtexec 11, which waits by spinning, too"
    return f"{what}: neither the defaults of trtexec 10 nor those of 11"


@runtime_checkable
class Plan(Engine, Protocol):
    """An engine on a GPU, with what is measured of it."""

    @property
    def device(self) -> Device: ...
    def check_batch(self, batch: int) -> None: ...
    def new_execution(self) -> Execution: ...


class GpuQueries:
    """The measurements of one plan at one batch; to be closed before its engine is.

    Raises BuildError for a batch that the plan was not built for, for more streams than the device has, and
    where ``options.cuda_graph`` is not supported.
    """

    def __init__(self, engine: Plan, batch: int, options: BenchOptions, clock: Clock) -> None:
        self._engine, self._batch, self._transfers = engine, batch, options.transfers
        self._device = engine.device
        self._traces: list[Trace] = []
        self._wall_ms = 0.0
        self._lanes: list[_Lane] = []
        _check_streams(self._device, options.streams)
        engine.check_batch(batch)
        images = noise(batch, engine.input_shape, options.seed)
        try:
            with self._device.current():
                self._start, self._main = self._device.event(), self._device.stream()
                for _ in range(options.streams):
                    self._lanes.append(_Lane(engine.new_execution(), self._device, options.transfers, clock))
                    self._lanes[-1].prepare(images, options.cuda_graph)
        except BaseException:
            self.close()
            raise

    def warm_up(self, seconds: float) -> None:
        """Runs for ``seconds``, at least one query on each stream."""
        self._run(seconds, 1)

    def measure(self, seconds: float, iterations: int) -> None:
        """Runs for ``seconds`` and at least ``iterations`` queries on each stream."""
        traces = self._run(seconds, iterations)
        self._traces += traces
        self._wall_ms += max(trace.end for trace in traces) - min(trace.start for trace in traces)

    def _run(self, seconds: float, iterations: int) -> list[Trace]:
        traces: list[Trace] = []
        now_ms, count = 0.0, 0
        with self._device.current():
            # The measurement begins on the GPU: nothing may run before this mark.
            self._start.record(self._main)
            for lane in self._lanes:
                lane.wait(self._start)
            while count < iterations or now_ms < seconds * 1000:
                for lane in self._lanes:
                    lane.query()
                for lane in self._lanes:
                    if (trace := lane.finish_oldest(self._start, _DEPTH - 1)) is not None:
                        traces.append(trace)
                        now_ms = max(now_ms, trace.end)
                count += 1
            for lane in self._lanes:
                while (trace := lane.finish_oldest(self._start, 0)) is not None:
                    traces.append(trace)
            for lane in self._lanes:
                lane.fetch_at_end()
        return traces

    def result(self, percentiles: Sequence[float]) -> Throughput:
        """The figures of all that was measured so far."""
        columns = {"enqueue": [trace.enqueue for trace in self._traces]}
        if self._transfers:
            columns["h2d"] = [trace.h2d for trace in self._traces]
        columns["gpu_compute"] = [trace.gpu_compute for trace in self._traces]
        if self._transfers:
            columns["d2h"] = [trace.d2h for trace in self._traces]
        parts = {name: summary(values, percentiles) for name, values in columns.items()}
        return Throughput(
            engine=self._engine.name,
            precision=self._engine.precision,
            batch=self._batch,
            images_per_s=len(self._traces) * self._batch / self._wall_ms * 1000,
            latency_ms=latency_of([trace.latency for trace in self._traces], percentiles),
            iterations=len(self._traces),
            parts_ms=parts,
            warnings=tuple(_warnings(parts, columns["gpu_compute"])),
        )

    def close(self) -> None:
        """Ends the contexts and frees their memory."""
        with self._device.current():
            for lane in self._lanes:
                lane.close()
        self._lanes.clear()


class _Slot:
    """The events of one query under way: around each of its parts."""

    def __init__(self, device: Device, transfers: bool) -> None:
        parts = ("h2d", "compute", "d2h") if transfers else ("compute",)
        self.events = {part: (device.event(), device.event()) for part in parts}
        self.enqueue_ms = 0.0

    def trace(self, start: Event) -> Trace:
        """Waits for the query and gives its times."""
        marks = list(self.events.values())
        first, last = marks[0][0], marks[-1][1]
        last.synchronize()
        took = {part: end.elapsed_ms(begin) for part, (begin, end) in self.events.items()}
        return Trace(
            self.enqueue_ms,
            took.get("h2d", 0.0),
            took["compute"],
            took.get("d2h", 0.0),
            first.elapsed_ms(start),
            last.elapsed_ms(start),
        )


class _Lane:
    """One execution context with its three streams and the queries that it has under way.

    Both queries use the same memory, as in trtexec: the input is the same, and nobody reads the outputs.
    """

    def __init__(self, execution: Execution, device: Device, transfers: bool, clock: Clock) -> None:
        self._execution, self._device, self._transfers, self._clock = execution, device, transfers, clock
        self._h2d, self._compute, self._d2h = (device.stream() for _ in range(_STREAMS_EACH))
        self._free = [_Slot(device, transfers) for _ in range(_DEPTH)]
        self._busy: list[_Slot] = []
        self._graph: Graph | None = None

    def prepare(self, images: "np.ndarray[Any, np.dtype[np.float32]]", cuda_graph: bool) -> None:
        """Memory, input, one query to settle what happens only once, and the CUDA graph."""
        execution, stream = self._execution, self._compute
        execution.prepare(len(images))
        execution.input[...] = images
        execution.send(stream)
        execution.enqueue(stream)
        stream.synchronize()
        if cuda_graph:
            self._graph = _captured(execution, self._device, stream)

    def wait(self, event: Event) -> None:
        for stream in (self._h2d, self._compute):
            stream.wait(event)

    def query(self) -> None:
        """Enqueues one query."""
        slot = self._free.pop(0)
        if self._transfers:
            _between(slot.events["h2d"], self._h2d, self._execution.send)
            self._compute.wait(slot.events["h2d"][1])
        begin, end = slot.events["compute"]
        begin.record(self._compute)
        before = self._clock()
        if self._graph is None:
            self._execution.enqueue(self._compute)
        else:
            self._graph.launch(self._compute)
        slot.enqueue_ms = (self._clock() - before) * 1000
        end.record(self._compute)
        if self._transfers:
            self._d2h.wait(end)
            _between(slot.events["d2h"], self._d2h, self._execution.fetch)
        self._busy.append(slot)

    def finish_oldest(self, start: Event, leave: int) -> Trace | None:
        """The times of the oldest query, waited for; None where at most ``leave`` are under way."""
        if len(self._busy) <= leave:
            return None
        slot = self._busy.pop(0)
        self._free.append(slot)
        return slot.trace(start)

    def fetch_at_end(self) -> None:
        """Without transfers: brings the last outputs back, after all timing."""
        if not self._transfers:
            self._execution.fetch(self._compute)
            self._compute.synchronize()

    def close(self) -> None:
        for stream in (self._h2d, self._compute, self._d2h):
            stream.synchronize()
        if self._graph is not None:
            self._graph.close()
        self._execution.close()


def _between(events: tuple[Event, Event], stream: Stream, work: Callable[[Stream], None]) -> None:
    events[0].record(stream)
    work(stream)
    events[1].record(stream)


def _captured(execution: Execution, device: Device, stream: Stream) -> Graph:
    # TensorRT for RTX tells beforehand; TensorRT fails while it is captured.
    capturable = getattr(cast(Any, execution.context), "is_stream_capturable", None)
    if capturable is not None and not capturable(stream.handle):
        raise BuildError("this plan can't run as a CUDA graph; leave --cuda-graph out")
    try:
        return device.capture(stream, lambda: execution.enqueue(stream))
    except BuildError as error:
        raise BuildError(f"this plan can't run as a CUDA graph: {error}; leave --cuda-graph out") from error


def _check_streams(device: Device, streams: int) -> None:
    most = device.distinct_streams // _STREAMS_EACH
    if streams > most:
        raise BuildError(
            f"expected --streams of at most {most} with --buffers {device.name}, where more would share queues, "
            f"got {streams}; take --buffers pycuda"
        )


def _warnings(parts: dict[str, dict[str, float]], compute: Sequence[float]) -> Iterator[WarningMessage]:
    """What makes the figures say something else than the GPU's speed, by trtexec's thresholds."""
    median = parts["gpu_compute"]["median"]
    variation = pstdev(compute) / fmean(compute) * 100 if fmean(compute) > 0 else math.inf
    if variation > _UNSTABLE_PERCENT:
        yield WarningMessage(
            "unstable-compute-time",
            f"the GPU's compute time is unstable: it varies by {variation:.1f} % (coefficient of variation, over "
            f"{_UNSTABLE_PERCENT:g} %); lock the clocks by nvidia-smi --lock-gpu-clocks, or measure longer",
            "Take the speeds as rough. Stop what else runs on the GPU, lock its clocks, and measure with zscgan-bench.",
        )
    if parts["enqueue"]["median"] > _ENQUEUE_BOUND * median:
        yield WarningMessage(
            "host-bound",
            "the host may be the limit: enqueueing takes over 0.8 of the GPU's compute time; take --cuda-graph or "
            "a larger batch",
            "The GPU waits for the CPU, so a faster network would not show. zscgan-bench --cuda-graph measures "
            "without that.",
        )
    for part, direction in (("h2d", "of the input to"), ("d2h", "of the outputs from")):
        if part in parts and parts[part]["median"] >= median:
            yield WarningMessage(
                "transfer-bound",
                f"the transfer {direction} the GPU may be the limit: it takes as long as computing; "
                "--no-transfers measures without",
                "The copies cost more than the network. If your inputs are on the GPU already, "
                "zscgan-bench --no-transfers measures what you will see.",
            )


__all__ = ["Clock", "GpuQueries", "Trace", "rules_followed"]
