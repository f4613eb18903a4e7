"""The GPU while it is measured, through a double of NVML whose clock falls only then."""

import sys
import threading
from collections.abc import Iterator
from itertools import chain, repeat

import pytest

from engines.bench.gpu_watch import Activity, GpuWatch, activity
from engines.bench.nvml import Sample
from tests.tensorrt_double.nvml import Nvml

CALM = Sample(1980, (), 60)
IDLE = Sample(210, ("gpu_idle",), 40)
HOT = Sample(1200, ("sw_power_cap", "hw_thermal_slowdown"), 84)


class Busy:
    """Has ``nvml`` say to all but the thread that waits that the GPU works, at the given clocks."""

    def __init__(self, nvml: Nvml, *clocks: int, reasons: int = 0) -> None:
        self.enough = threading.Event()
        self._clocks = chain(clocks, self._last(clocks[-1]))
        nvml.answers |= {
            "sm_clock": lambda: next(self._clocks) if self.running() else 210,
            "nvmlDeviceGetCurrentClocksEventReasons": lambda: reasons if self.running() else 0x1,
            "nvmlDeviceGetTemperature": lambda: 84 if self.running() else 40,
        }

    def _last(self, clock: int) -> Iterator[int]:
        self.enough.set()
        yield from repeat(clock)

    @staticmethod
    def running() -> bool:
        return threading.current_thread() is not threading.main_thread()


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    double = Nvml()
    monkeypatch.setitem(sys.modules, "pynvml", double)
    return double


def watched(busy: Busy) -> GpuWatch:
    with GpuWatch("0000:65:00.0", interval_s=0.001) as watch, watch.running():
        assert busy.enough.wait(30)
    return watch


def test_a_fall_that_nobody_sees_before_or_after_is_seen(nvml: Nvml) -> None:
    watch = watched(Busy(nvml, 1980, 1980, 1200, reasons=0x44))
    for reading in (watch.before, watch.after):
        assert reading.state is not None
        assert (reading.state.sm_clock_mhz, reading.state.clock_limits) == (210, ("gpu_idle",))
    found = watch.activity
    assert found is not None
    assert found.samples >= 3
    assert found.sm_clock_mhz is not None
    assert (found.sm_clock_mhz["min"], found.sm_clock_mhz["max"]) == (1200, 1980)
    assert found.clock_limits == {"sw_power_cap": 100.0, "hw_thermal_slowdown": 100.0}
    clock, limits = map(str, found.warnings())
    assert "SM clock was between 1200 and 1980 MHz while measuring" in clock
    assert "held down in 100 % of" in limits
    assert "at up to 84 °C, by: sw_power_cap, hw_thermal_slowdown" in limits


def test_a_steady_clock_is_no_warning(nvml: Nvml) -> None:
    found = watched(Busy(nvml, 1980, 1965, 1980)).activity
    assert found is not None
    assert found.warnings() == []


def test_the_thread_and_nvml_end_with_an_exception(nvml: Nvml) -> None:
    with pytest.raises(KeyboardInterrupt), GpuWatch(None) as watch, watch.running():
        assert "gpu-watch" in {thread.name for thread in threading.enumerate()}
        raise KeyboardInterrupt
    assert "gpu-watch" not in {thread.name for thread in threading.enumerate()}
    assert nvml.open == 0


def test_a_jetson_tells_little(nvml: Nvml) -> None:
    nvml.missing = tuple(name for name in nvml.answers if name != "nvmlDeviceGetCount")
    found = watched(Busy(nvml, 600, 600, 300)).activity
    assert found is not None
    assert (found.clock_limits, found.temperature_max_c) == (None, None)
    assert ["between 300 and 600 MHz" in warning.text for warning in found.warnings()] == [True]


def test_without_nvml_nothing_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with GpuWatch(None) as watch, watch.running():
        assert "gpu-watch" not in {thread.name for thread in threading.enumerate()}
    assert watch.activity is None
    assert watch.before == watch.after
    assert "the GPU's clocks are not noted: pynvml is missing" in watch.after.reason


def test_samples_by_hand() -> None:
    assert activity([]) is None
    assert activity([IDLE, IDLE]) is None
    found = activity(
        [IDLE, CALM, HOT, CALM, Sample(1890, ("sw_power_cap", "applications_clocks_setting"), 70)]
    )
    assert found == Activity(
        samples=4,
        sm_clock_mhz={"min": 1200.0, "median": 1935.0, "max": 1980.0},
        clock_limits={"sw_power_cap": 50.0, "hw_thermal_slowdown": 25.0, "applications_clocks_setting": 25.0},
        held_down_percent=50.0,
        temperature_max_c=84,
    )
    assert "held down in 50 % of 4 samples" in found.warnings()[1].text


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        ([CALM, CALM], []),
        ([IDLE, CALM], []),  # it woke up
        ([CALM, CALM._replace(sm_clock_mhz=1885)], []),  # steps of 15 MHz
        ([CALM, CALM._replace(sm_clock_mhz=1880)], ["between 1880 and 1980 MHz"]),
        ([CALM._replace(clock_limits=("applications_clocks_setting",))], []),
        ([HOT], ["at up to 84 °C, by: sw_power_cap, hw_thermal_slowdown"]),
        ([HOT._replace(temperature_c=None)], ["while measuring by: sw_power_cap"]),
        ([Sample(None, None, None)], []),
    ],
)
def test_warnings(samples: list[Sample], words: list[str]) -> None:
    found = activity(samples)
    assert found is not None
    warnings = list(map(str, found.warnings()))
    assert len(warnings) == len(words)
    for warning, wanted in zip(warnings, words, strict=True):
        assert wanted in warning
