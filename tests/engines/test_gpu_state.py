"""The GPU's state through a double of NVML, and what of it is worth a warning."""

import sys
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from engines.gpu_state import GpuState, gpu_state, state_warnings


class Nvml(ModuleType):
    """The module ``pynvml`` with one GPU; ``missing`` calls are not supported by it."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, *missing: str, gpus: int = 1) -> None:
        super().__init__("pynvml")
        self.missing, self.gpus, self.open = missing, gpus, 0
        self.answers: dict[str, Any] = {
            "nvmlDeviceGetName": "Double GPU",
            "nvmlSystemGetDriverVersion": "580.65.06",
            "nvmlDeviceGetPerformanceState": 0,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x24,
            "nvmlDeviceGetEccMode": [1, 0],
            "nvmlDeviceGetPersistenceMode": 0,
            "nvmlDeviceGetPowerUsage": 71_500,
            "nvmlDeviceGetEnforcedPowerLimit": 72_000,
            "nvmlDeviceGetTemperature": 84,
            "nvmlDeviceGetCount": gpus,
        }

    def nvmlInit(self) -> None:
        if "nvmlInit" in self.missing:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:
        if bus != "0000:65:00.0":
            raise self.NVMLError("Not Found")
        return "handle"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        assert index == 0
        return "handle"

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return {self.NVML_CLOCK_SM: 1400, self.NVML_CLOCK_MEM: 6250}[kind]

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return {self.NVML_CLOCK_SM: 2040, self.NVML_CLOCK_MEM: 6251}[kind]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            assert arguments[:1] in {(), ("handle",)}
            if name in self.missing:
                raise self.NVMLError("Not Supported")
            return self.answers[name]

        return call


STATE = GpuState(
    gpu="Double GPU",
    driver="580.65.06",
    sm_clock_mhz=1400,
    sm_clock_max_mhz=2040,
    memory_clock_mhz=6250,
    memory_clock_max_mhz=6251,
    power_w=71.5,
    power_limit_w=72.0,
    performance_state="P0",
    temperature_c=84,
    clock_limits=("sw_power_cap", "sw_thermal_slowdown"),
    ecc=True,
    persistence_mode=False,
)
CALM = replace(STATE, clock_limits=())


def use(monkeypatch: pytest.MonkeyPatch, nvml: Nvml | None) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml)


def test_state_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    use(monkeypatch, nvml)
    assert gpu_state("0000:65:00.0") == (STATE, "")
    assert gpu_state(None) == (STATE, "")  # the only GPU
    assert nvml.open == 0
    assert STATE.to_json()["sm_clock_mhz"] == 1400


def test_what_a_gpu_does_not_tell_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Nvml("nvmlDeviceGetEccMode", "nvmlDeviceGetPowerUsage", "nvmlDeviceGetPerformanceState"))
    assert gpu_state("0000:65:00.0").state == replace(STATE, ecc=None, power_w=None, performance_state=None)


def test_the_double_has_names_of_nvml() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = {*Nvml().answers, *(name for name in vars(Nvml) if name.upper().startswith("NVML"))}
    assert {name for name in names if not hasattr(pynvml, name)} == set()


def test_unknown_limits_keep_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    nvml.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x1001
    use(monkeypatch, nvml)
    state = gpu_state(None).state
    assert state is not None
    assert state.clock_limits == ("gpu_idle", "0x1000")


@pytest.mark.parametrize(
    ("nvml", "bus", "reason"),
    [
        (None, "0000:65:00.0", "pynvml is missing; type pip install nvidia-ml-py"),
        (Nvml("nvmlInit"), "0000:65:00.0", "NVML does not start: NVML Shared Library Not Found"),
        (Nvml(), "0000:99:00.0", "Not Found"),
        (Nvml(gpus=2), None, "which of the 2 GPUs is meant is unknown"),
    ],
)
def test_reason_where_it_can_not_be_read(
    monkeypatch: pytest.MonkeyPatch, nvml: Nvml | None, bus: str | None, reason: str
) -> None:
    use(monkeypatch, nvml)
    state, why = gpu_state(bus)
    assert state is None
    assert reason in why
    assert nvml is None or nvml.open == 0


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (CALM, CALM, []),
        (replace(CALM, sm_clock_mhz=300, clock_limits=("gpu_idle",)), CALM, []),  # it woke up
        (CALM, replace(CALM, sm_clock_mhz=1331), []),  # one step of 15 MHz and a little
        (CALM, replace(CALM, sm_clock_mhz=1300), ["SM clock fell from 1400 to 1300 MHz"]),
        (CALM, replace(CALM, clock_limits=("applications_clocks_setting",)), []),
        (CALM, STATE, ["held down at 84 °C by: sw_power_cap, sw_thermal_slowdown"]),
        (STATE, CALM, ["held down at 84 °C by: sw_power_cap, sw_thermal_slowdown"]),
        (None, replace(STATE, temperature_c=None), ["held down by: sw_power_cap"]),
        (None, None, []),
        (replace(CALM, sm_clock_mhz=None, clock_limits=None), CALM, []),
    ],
)
def test_warnings(before: GpuState | None, after: GpuState | None, words: list[str]) -> None:
    found = state_warnings(before, after)
    assert len(found) == len(words)
    for warning, wanted in zip(found, words, strict=True):
        assert wanted in warning
