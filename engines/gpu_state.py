"""What the GPU was doing: clocks, power, temperature and what held them down, by NVML.

A figure of throughput holds for the clocks that the GPU ran at; a hot or power-limited GPU lowers them without a
word. NVML comes with the driver; its Python package is ``nvidia-ml-py`` (module ``pynvml``).
"""

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

_INSTALL = "pip install nvidia-ml-py"
_FALL = 0.05  # share of the SM clock; the steps of boost clocks are smaller

# Bits of nvmlDeviceGetCurrentClocksEventReasons (before driver 535: ...ClocksThrottleReasons), as in nvml.h.
_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
# An idle GPU, and clocks that someone has set: neither makes a measurement unsteady.
_HARMLESS = frozenset({"gpu_idle", "applications_clocks_setting"})


@dataclass(frozen=True)
class GpuState:
    """One reading; None is what this GPU or driver does not tell.

    ``performance_state`` is ``P0`` (fastest) to ``P15``; ``clock_limits`` names what holds the clocks down at
    this moment, ``gpu_idle`` among them.
    """

    gpu: str | None
    driver: str | None
    sm_clock_mhz: int | None
    sm_clock_max_mhz: int | None
    memory_clock_mhz: int | None
    memory_clock_max_mhz: int | None
    power_w: float | None
    power_limit_w: float | None
    performance_state: str | None
    temperature_c: int | None
    clock_limits: tuple[str, ...] | None
    ecc: bool | None
    persistence_mode: bool | None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class Reading(NamedTuple):
    """The GPU's state or, where that is None, why it can't be read."""

    state: GpuState | None
    reason: str


def gpu_state(pci_bus_id: str | None) -> Reading:
    """The state of the GPU at ``pci_bus_id``, such as ``0000:65:00.0``; None stands for the only GPU."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return Reading(None, f"the GPU's clocks are not noted: pynvml is missing; type {_INSTALL}")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return Reading(None, f"the GPU's clocks are not noted: NVML does not start: {error}")
    try:
        handle = _handle(nvml, pci_bus_id)
        return Reading(_read(nvml, handle), "")
    except (nvml.NVMLError, LookupError) as error:
        return Reading(None, f"the GPU's clocks are not noted: {error}")
    finally:
        nvml.nvmlShutdown()


def state_warnings(before: GpuState | None, after: GpuState | None) -> list[str]:
    """What makes a measurement between the two readings doubtful, in words."""
    found = []
    first = before.sm_clock_mhz if before is not None else None
    last = after.sm_clock_mhz if after is not None else None
    if first and last and last < (1 - _FALL) * first:
        found.append(f"the GPU's SM clock fell from {first} to {last} MHz while measuring")
    limits = {
        limit: None for state in (before, after) if state is not None for limit in state.clock_limits or ()
    }
    if serious := [limit for limit in limits if limit not in _HARMLESS]:
        heat = (
            f" at {after.temperature_c} °C" if after is not None and after.temperature_c is not None else ""
        )
        found.append(f"the GPU's clocks are held down{heat} by: {', '.join(serious)}")
    return found


def _handle(nvml: Any, pci_bus_id: str | None) -> Any:
    if pci_bus_id is not None:
        return nvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)
    number = nvml.nvmlDeviceGetCount()
    if number != 1:
        raise LookupError(f"which of the {number} GPUs is meant is unknown; --buffers pycuda tells")
    return nvml.nvmlDeviceGetHandleByIndex(0)


def _read(nvml: Any, handle: Any) -> GpuState:
    def told(call: Callable[..., Any], *arguments: Any) -> Any:
        """What ``call`` gives; None where the GPU or its driver does not know it."""
        try:
            return call(*arguments)
        except nvml.NVMLError:
            return None

    def scaled(milliwatts: int | None) -> float | None:
        return None if milliwatts is None else milliwatts / 1000

    level = told(nvml.nvmlDeviceGetPerformanceState, handle)
    reasons = told(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
    ecc = told(nvml.nvmlDeviceGetEccMode, handle)
    persistence = told(nvml.nvmlDeviceGetPersistenceMode, handle)
    return GpuState(
        gpu=told(nvml.nvmlDeviceGetName, handle),
        driver=told(nvml.nvmlSystemGetDriverVersion),
        sm_clock_mhz=told(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
        sm_clock_max_mhz=told(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
        memory_clock_mhz=told(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
        memory_clock_max_mhz=told(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_MEM),
        power_w=scaled(told(nvml.nvmlDeviceGetPowerUsage, handle)),
        power_limit_w=scaled(told(nvml.nvmlDeviceGetEnforcedPowerLimit, handle)),
        performance_state=None if level is None else f"P{level}",
        temperature_c=told(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
        clock_limits=None if reasons is None else _limits(int(reasons)),
        ecc=None if ecc is None else bool(ecc[0]),
        persistence_mode=None if persistence is None else bool(persistence),
    )


def _limits(bits: int) -> tuple[str, ...]:
    named = [name for bit, name in _REASONS.items() if bits & bit]
    unknown = bits & ~sum(_REASONS)
    return (*named, *([f"0x{unknown:x}"] if unknown else []))
