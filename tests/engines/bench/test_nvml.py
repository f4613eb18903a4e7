"""The GPU's state through a double of NVML, and what of it is worth a warning."""

import sys
from dataclasses import replace

import pytest

from engines.bench.nvml import GpuState, gpu_state
from tests.tensorrt_double.nvml import Nvml

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


def test_a_function_that_the_package_lacks_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Nvml(absent=["nvmlDeviceGetTemperature", "nvmlDeviceGetEnforcedPowerLimit"]))
    assert gpu_state(None) == (replace(STATE, temperature_c=None, power_limit_w=None), "")


@pytest.mark.parametrize("nvml", [Nvml("nvmlDeviceGetCurrentClocksEventReasons"),
                                  Nvml(absent=["nvmlDeviceGetCurrentClocksEventReasons"])])  # fmt: skip
def test_the_clock_limits_have_an_older_name(monkeypatch: pytest.MonkeyPatch, nvml: Nvml) -> None:
    use(monkeypatch, nvml)
    assert gpu_state(None) == (STATE, "")


def test_an_older_package_gives_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    nvml.answers |= {"nvmlDeviceGetName": b"Double GPU", "nvmlSystemGetDriverVersion": b"580.65.06"}
    use(monkeypatch, nvml)
    assert gpu_state(None) == (STATE, "")


def test_the_double_has_names_of_nvml() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = {
        *(name for name in Nvml().answers if name.startswith("nvml")),
        *(name for name in vars(Nvml) if name.upper().startswith("NVML")),
    }
    assert {name for name in names if not hasattr(pynvml, name)} == set()


def test_unknown_limits_keep_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = Nvml()
    nvml.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x1001
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
