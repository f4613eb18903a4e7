"""Whether a GPU answers, by a double of the driver's library."""

from types import SimpleNamespace

import pytest

from engines.errors import EngineUnavailableError
from engines.gpu import driver_cuda, gpu_count, gpu_name, gpus
from tests.libcuda_double import A_GPU, driver_double, load_driver


@pytest.mark.parametrize("devices", [1, 4])
def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    load_driver(monkeypatch, driver_double((A_GPU,) * devices))
    assert gpu_count() == devices
    assert gpus() == (devices, "")


@pytest.mark.parametrize(
    ("driver", "reason"),
    [
        (None, "no NVIDIA driver is installed"),
        (driver_double(fails={"cuInit": 100}), "CUDA_VISIBLE_DEVICES"),
        (driver_double(()), "finds no GPU"),
        (driver_double(fails={"cuInit": 803}), "does not start (CUDA error 803)"),
        (driver_double(fails={"cuDeviceGetCount": 3}), "CUDA error 3"),
    ],
)
def test_reason_for_none(
    monkeypatch: pytest.MonkeyPatch, driver: SimpleNamespace | None, reason: str
) -> None:
    load_driver(monkeypatch, driver)
    assert gpus().number == gpu_count() == 0
    assert reason in gpus().reason


def test_the_driver_describes_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    load_driver(monkeypatch, driver_double((A_GPU, ("NVIDIA H100 80GB HBM3", (9, 0))), cuda=12080))
    assert driver_cuda() == "12.8"
    assert [gpu_name(0), gpu_name(1)] == [("NVIDIA RTX A6000", "8.6"), ("NVIDIA H100 80GB HBM3", "9.0")]
    load_driver(monkeypatch, driver_double(fails={"cuDeviceGetAttribute": 101}))
    with pytest.raises(EngineUnavailableError, match=r"cuDeviceGetAttribute failed with CUDA_ERROR_101"):
        gpu_name(0)


def test_this_machine_answers() -> None:
    """With a driver or without one: a number, and a reason exactly where it is 0."""
    number, reason = gpus()
    assert (number == 0) == bool(reason)
