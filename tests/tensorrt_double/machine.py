"""This process as if it ran on a machine with a GPU and TensorRT: all the doubles put together."""

import importlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import calibrators.tensorrt
from engines.gpu import Gpus
from tests.tensorrt_double.calibration import Calibration, fake_module
from tests.tensorrt_double.memory import HostDevice, memory_at
from tests.tensorrt_double.runtime import runtime_double


@dataclass
class DoubleMachine:
    """``trt`` stands for the module tensorrt, ``devices`` are those that were opened, in their order."""

    trt: SimpleNamespace
    devices: list[HostDevice] = field(default_factory=list)
    calibrations: list[Calibration] = field(default_factory=list)

    def open_device(self, _name: str = "auto") -> HostDevice:
        self.devices.append(HostDevice())
        return self.devices[-1]

    def calibrate(self, calibrator: Any, network: Any, shape: Sequence[int]) -> bool:
        """What the builder's double calls for an implicit network."""
        names = [network.get_input(index).name for index in range(network.num_inputs)]
        calibration = Calibration(_Reader(), shape=tuple(shape), names=names)  # type: ignore[arg-type]
        self.calibrations.append(calibration)
        return calibration.run(calibrator)


class _Reader:
    """What a kernel reads at a device address."""

    def __init__(self) -> None:
        self.buffers: list[SimpleNamespace] = []

    def read(self, pointer: int, shape: Sequence[int]) -> np.ndarray:
        self.buffers = [SimpleNamespace(pointer=pointer)]
        return memory_at(pointer, 4 * math.prod(shape)).view(np.float32).reshape(shape).copy()


def machine_with_tensorrt(monkeypatch: pytest.MonkeyPatch, version: str = "10.16.1") -> DoubleMachine:
    """Puts the doubles where the packages look for TensorRT, for a GPU and for its memory."""
    machine = DoubleMachine(runtime_double(version))
    machine.trt.calibrate = machine.calibrate
    monkeypatch.setattr("engines.tensorrt.library.load_tensorrt", lambda: machine.trt)
    monkeypatch.setattr("engines.gpu.gpus", lambda: Gpus(1, ""))
    users = (
        "engines.tensorrt.engine",
        "engines.bench.open",
        "converter.job",
        "converter.stages.build",
        "converter.stages.benchmark",
    )
    for user in users:
        monkeypatch.setattr(f"{user}.open_device", machine.open_device)
    # The calibrators derive from TensorRT's classes, so their module is imported anew.
    calibrators_imported_with(monkeypatch, fake_module(version))
    return machine


def calibrators_imported_with(monkeypatch: pytest.MonkeyPatch, tensorrt: ModuleType | None) -> Any:
    """``calibrators.tensorrt.calibrator`` as it is where ``import tensorrt`` gives this module; None: there is none."""
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    return calibrators_imported_anew(monkeypatch)


def calibrators_imported_anew(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``calibrators.tensorrt.calibrator``, its imports tried once more; the package then has the new classes."""
    package, name = calibrators.tensorrt, "calibrators.tensorrt.calibrator"
    module = importlib.import_module(name)
    monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(package, "calibrator", module)
    monkeypatch.delitem(sys.modules, name)
    module = importlib.import_module(name)
    for exported in package.__all__:
        monkeypatch.setattr(package, exported, getattr(module, exported))
    return module
