"""What the GPU did while it was measured: clocks, heat and what held the clocks down, sampled by NVML.

A figure of throughput holds for the clocks that the GPU ran at; a hot or power-limited GPU lowers them without a
word. Before and after a measurement it is idle and shows nothing of that, so it is looked at meanwhile, in a thread.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from threading import Event, Thread
from types import TracebackType

from engines.bench.nvml import (
    HARMLESS,
    IDLE,
    NvmlGpu,
    Reading,
    Sample,
    UnreadableGpuError,
    not_noted,
    open_nvml,
)
from zscgan_common.warning_message import WarningMessage

INTERVAL_S = 0.1
"""Between two samples. One takes some calls into the driver, which is nothing beside this."""

_FALL = 0.05  # share of the SM clock; the steps of boost clocks are smaller


@dataclass(frozen=True)
class Activity:
    """The samples of a measurement, those of an idle GPU left out; None is what the GPU doesn't tell.

    ``clock_limits`` has, for each thing that held the clocks down, the share of the samples in percent.
    """

    samples: int
    sm_clock_mhz: dict[str, float] | None
    clock_limits: dict[str, float] | None
    held_down_percent: float
    temperature_max_c: int | None

    def to_json(self) -> dict[str, object]:
        return {
            "samples": self.samples,
            "sm_clock_mhz": self.sm_clock_mhz,
            "clock_limits_percent": self.clock_limits,
            "temperature_max_c": self.temperature_max_c,
        }

    def warnings(self) -> list[WarningMessage]:
        """What makes the measurement doubtful."""
        found = []
        clock = self.sm_clock_mhz
        if clock is not None and clock["min"] < (1 - _FALL) * clock["max"]:
            found.append(
                WarningMessage(
                    "clock-varied",
                    f"the GPU's SM clock was between {clock['min']:g} and {clock['max']:g} MHz while measuring, "
                    f"{clock['median']:g} MHz at the median",
                    "Some of the measurements ran on a slower GPU. Let it cool, lock its clocks, and measure with "
                    "zscgan-bench.",
                )
            )
        if serious := [limit for limit in self.clock_limits or () if limit not in HARMLESS]:
            heat = "" if self.temperature_max_c is None else f", at up to {self.temperature_max_c} °C,"
            found.append(
                WarningMessage(
                    "clocks-held-down",
                    f"the GPU's clocks were held down in {self.held_down_percent:.0f} % of {self.samples} samples "
                    f"while measuring{heat} by: {', '.join(serious)}",
                    "The GPU is slower than it could be, all precisions alike. Fix the cause, and measure with "
                    "zscgan-bench.",
                )
            )
        return found


def activity(samples: Sequence[Sample]) -> Activity | None:
    """What ``samples`` say together; None where the GPU was idle in all of them."""
    busy = [sample for sample in samples if IDLE not in (sample.clock_limits or ())]
    if not busy:
        return None
    clocks = [float(sample.sm_clock_mhz) for sample in busy if sample.sm_clock_mhz is not None]
    limits = [sample.clock_limits for sample in busy if sample.clock_limits is not None]
    counts = Counter(limit for each in limits for limit in each)
    held_down = sum(not HARMLESS.issuperset(each) for each in limits)
    return Activity(
        samples=len(busy),
        sm_clock_mhz={"min": min(clocks), "median": median(clocks), "max": max(clocks)} if clocks else None,
        clock_limits={limit: percent(count, len(limits)) for limit, count in counts.items()}
        if limits
        else None,
        held_down_percent=percent(held_down, len(limits)) if limits else 0.0,
        temperature_max_c=max(
            (sample.temperature_c for sample in busy if sample.temperature_c is not None), default=None
        ),
    )


def percent(part: int, whole: int) -> float:
    return round(100 * part / whole, 1)


class GpuWatch:
    """The GPU at ``pci_bus_id``, watched; a context manager around a measurement.

    ``before`` and ``after`` are its state on entering and leaving, ``activity`` what it did in the ``running``
    blocks between. Where NVML or the GPU can't be read, the states are None and have the reason.
    """

    def __init__(self, pci_bus_id: str | None, interval_s: float = INTERVAL_S) -> None:
        self._pci_bus_id, self._interval_s = pci_bus_id, interval_s
        self._gpu: NvmlGpu | None = None
        self._samples: list[Sample] = []
        self._open = ExitStack()
        self.before = self.after = Reading(None, "")

    def __enter__(self) -> "GpuWatch":
        try:
            self._gpu = self._open.enter_context(open_nvml(self._pci_bus_id))
        except UnreadableGpuError as error:
            self.before = self.after = Reading(None, not_noted(error))
        else:
            self.before = Reading(self._gpu.state(), "")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._open:
            if self._gpu is not None:
                self.after = Reading(self._gpu.state(), "")

    @property
    def activity(self) -> Activity | None:
        return activity(self._samples)

    @contextmanager
    def running(self) -> Iterator[None]:
        """A block in which the GPU works: it is sampled until the block ends, however it does."""
        if self._gpu is None:
            yield
            return
        gpu, ended = self._gpu, Event()

        def sample() -> None:
            while True:
                self._samples.append(gpu.sample())
                if ended.wait(self._interval_s):
                    return

        thread = Thread(target=sample, name="gpu-watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
