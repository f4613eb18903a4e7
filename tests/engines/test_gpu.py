"""Whether a GPU answers, by a double of the driver's library."""

import ctypes
from typing import Any

import pytest

from engines.gpu import gpu_count, gpus


class Driver:
    """``cuInit`` and ``cuDeviceGetCount`` of ``libcuda``."""

    def __init__(self, *, devices: int = 1, init: int = 0, count: int = 0) -> None:
        self._devices, self._init, self._count = devices, init, count
        self.started = False

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        self.started = True
        return self._init

    def cuDeviceGetCount(self, pointer: Any) -> int:
        assert self.started
        pointer._obj.value = self._devices
        return self._count


def with_driver(monkeypatch: pytest.MonkeyPatch, driver: Driver | None) -> None:
    def load(name: str) -> Driver:
        assert name == "libcuda.so.1"
        if driver is None:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)


@pytest.mark.parametrize("devices", [1, 4])
def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    with_driver(monkeypatch, Driver(devices=devices))
    assert gpu_count() == devices
    assert gpus() == (devices, "")


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "no NVIDIA driver is installed"),
        (Driver(init=100), "CUDA_VISIBLE_DEVICES"),
        (Driver(devices=0), "finds no GPU"),
        (Driver(init=803), "does not start (CUDA error 803)"),
        (Driver(count=3), "CUDA error 3"),
    ],
)
def test_reason_for_none(monkeypatch: pytest.MonkeyPatch, driver: Driver | None, reason: str) -> None:
    with_driver(monkeypatch, driver)
    assert gpus().number == gpu_count() == 0
    assert reason in gpus().reason


def test_this_machine_answers() -> None:
    """With a driver or without one: a number, and a reason exactly where it is 0."""
    number, reason = gpus()
    assert (number == 0) == bool(reason)
