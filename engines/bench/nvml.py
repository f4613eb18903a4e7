"""What the GPU is doing: clocks, power, temperature and what holds them down, by NVML.

NVML comes with the driver; its Python package is ``nvidia-ml-py`` (module ``pynvml``). Which of its functions there
are depends on the package, the driver and the GPU: a Jetson has few.
"""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple, TypeVar

_T = TypeVar("_T")

_INSTALL = "pip install nvidia-ml-py"

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
IDLE = "gpu_idle"
HARMLESS = frozenset({IDLE, "applications_clocks_setting"})
"""An idle GPU, and clocks that someone has set: neither makes a measurement unsteady."""


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


class Sample(NamedTuple):
    """One look at a GPU that works; None is what it doesn't tell."""

    sm_clock_mhz: int | None
    clock_limits: tuple[str, ...] | None
    temperature_c: int | None


class UnreadableGpuError(Exception):
    """NVML or the GPU is not there; the message says why."""


@contextmanager
def open_nvml(pci_bus_id: str | None) -> Iterator["NvmlGpu"]:
    """The GPU at ``pci_bus_id``, such as ``0000:65:00.0``, through NVML; None stands for the only GPU.

    Raises UnreadableGpuError where there is none.
    """
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise UnreadableGpuError(f"pynvml is missing; type {_INSTALL}") from error
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        raise UnreadableGpuError(f"NVML does not start: {error}") from error
    try:
        try:
            handle = _handle(nvml, pci_bus_id)
        except nvml.NVMLError as error:
            raise UnreadableGpuError(str(error)) from error
        yield NvmlGpu(nvml, handle)
    finally:
        nvml.nvmlShutdown()


def gpu_state(pci_bus_id: str | None) -> Reading:
    """The state of the GPU at ``pci_bus_id``, as for ``open_nvml``."""
    try:
        with open_nvml(pci_bus_id) as gpu:
            return Reading(gpu.state(), "")
    except UnreadableGpuError as error:
        return Reading(None, not_noted(error))


def not_noted(error: UnreadableGpuError) -> str:
    """What to say where the GPU can't be read."""
    return f"the GPU's clocks are not noted: {error}"


def _handle(nvml: Any, pci_bus_id: str | None) -> Any:
    if pci_bus_id is not None:
        return nvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)
    number = nvml.nvmlDeviceGetCount()
    if number != 1:
        raise UnreadableGpuError(f"which of the {number} GPUs is meant is unknown; --buffers pycuda tells")
    return nvml.nvmlDeviceGetHandleByIndex(0)


class NvmlGpu:
    """One GPU, while NVML is open."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle

    def state(self) -> GpuState:
        """All that is told of the GPU at this moment."""
        nvml, handle, told = self._nvml, self._handle, self._told
        sample = self.sample()
        power = told(lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000)
        level = told(lambda: int(nvml.nvmlDeviceGetPerformanceState(handle)))
        return GpuState(
            gpu=told(lambda: text(nvml.nvmlDeviceGetName(handle))),
            driver=told(lambda: text(nvml.nvmlSystemGetDriverVersion())),
            sm_clock_mhz=sample.sm_clock_mhz,
            sm_clock_max_mhz=told(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM)),
            memory_clock_mhz=told(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            memory_clock_max_mhz=told(lambda: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            power_w=power,
            power_limit_w=told(lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000),
            performance_state=None if level is None else f"P{level}",
            temperature_c=sample.temperature_c,
            clock_limits=sample.clock_limits,
            ecc=told(lambda: bool(nvml.nvmlDeviceGetEccMode(handle)[0])),
            persistence_mode=told(lambda: bool(nvml.nvmlDeviceGetPersistenceMode(handle))),
        )

    def sample(self) -> Sample:
        """What changes while the GPU works."""
        nvml, handle, told = self._nvml, self._handle, self._told
        reasons = told(lambda: int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)))
        if reasons is None:
            reasons = told(lambda: int(nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)))
        return Sample(
            sm_clock_mhz=told(lambda: int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))),
            clock_limits=None if reasons is None else _limits(reasons),
            temperature_c=told(lambda: int(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))),
        )

    def _told(self, call: Callable[[], _T]) -> _T | None:
        """What ``call`` gives; None where the GPU or its driver doesn't know it, or the package lacks the name."""
        try:
            return call()
        except (self._nvml.NVMLError, AttributeError):
            return None


def text(value: str | bytes) -> str:
    """Older versions of NVML's Python package give bytes."""
    return value.decode() if isinstance(value, bytes) else value


def _limits(bits: int) -> tuple[str, ...]:
    named = [name for bit, name in _REASONS.items() if bits & bit]
    unknown = bits & ~sum(_REASONS)
    return (*named, *([f"0x{unknown:x}"] if unknown else []))
