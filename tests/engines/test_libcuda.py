"""The driver's library: what is missing is an error of the package, and errors have names."""

import ctypes
from types import SimpleNamespace

import pytest

from engines.errors import EngineUnavailableError
from engines.libcuda import _SIGNATURES, error_name, libcuda
from tests.libcuda_double import driver_double, load_driver


def test_calls_are_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    load_driver(monkeypatch, driver_double())
    library = libcuda("cuDeviceGet")
    assert library.cuDeviceGet.argtypes == _SIGNATURES["cuDeviceGet"]
    assert not library.cuDeviceGetName.argtypes
    with pytest.raises(ctypes.ArgumentError):
        library.cuDeviceGet("no pointer", 0)


def test_errors_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    load_driver(monkeypatch, driver_double())
    assert error_name(libcuda(), 719) == "CUDA_ERROR_719 (what it means)"
    load_driver(monkeypatch, driver_double(fails={"cuGetErrorName": 1}))
    assert error_name(libcuda(), 719) == "error 719"


@pytest.mark.parametrize("driver", [None, SimpleNamespace()], ids=["none", "too old"])
def test_a_missing_library_or_call_is_an_error(
    monkeypatch: pytest.MonkeyPatch, driver: SimpleNamespace | None
) -> None:
    load_driver(monkeypatch, driver)
    with pytest.raises(EngineUnavailableError, match=r"failed to load libcuda\.so\.1"):
        libcuda("cuInit")
