"""A double of NVML: ``Nvml()`` stands for the module ``pynvml``."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any


class Nvml(ModuleType):
    """The module ``pynvml`` with one GPU.

    ``missing`` calls are not supported by it, ``absent`` ones the package doesn't have. ``answers`` are values, or
    functions without arguments that give them.
    """

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0

    class NVMLError(Exception):
        pass

    def __init__(self, *missing: str, gpus: int = 1, absent: Sequence[str] = ()) -> None:
        super().__init__("pynvml")
        self.missing, self.absent, self.gpus, self.open = missing, absent, gpus, 0
        self.answers: dict[str, Any] = {
            "nvmlDeviceGetName": "Double GPU",
            "nvmlSystemGetDriverVersion": "580.65.06",
            "nvmlDeviceGetPerformanceState": 0,
            "nvmlDeviceGetCurrentClocksEventReasons": 0x24,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0x24,
            "sm_clock": 1400,
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
        return int(self.answer("sm_clock")) if kind == self.NVML_CLOCK_SM else 6250

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return {self.NVML_CLOCK_SM: 2040, self.NVML_CLOCK_MEM: 6251}[kind]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml") or name in self.absent:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            assert arguments[:1] in {(), ("handle",)}
            if name in self.missing:
                raise self.NVMLError("Not Supported")
            return self.answer(name)

        return call

    def answer(self, name: str) -> Any:
        value = self.answers[name]
        return value() if callable(value) else value
