"""The driver's library as C functions in Python, so that arguments are converted as they are for the real one."""

import ctypes
from collections.abc import Mapping, Sequence
from ctypes import POINTER, c_char_p, c_int, c_uint, c_void_p
from types import SimpleNamespace
from typing import Any

import pytest

A_GPU = ("NVIDIA RTX A6000", (8, 6))


def driver_double(
    gpus: Sequence[tuple[str, tuple[int, int]]] = (A_GPU,),
    *,
    cuda: int = 13000,
    fails: Mapping[str, int] | None = None,
) -> SimpleNamespace:
    """A driver with these GPUs (name, compute capability); ``fails`` gives the error code of a call."""
    started, kept = [False], list[Any]()

    def cuInit(flags: int) -> None:
        assert flags == 0
        started[0] = True

    def cuDeviceGetCount(out: Any) -> None:
        assert started[0]
        out[0] = len(gpus)

    def cuDriverGetVersion(out: Any) -> None:
        out[0] = cuda

    def cuDeviceGet(out: Any, index: int) -> None:
        out[0] = index

    def cuDeviceGetName(out: int, length: int, device: int) -> None:
        name = gpus[device][0].encode() + b"\0"
        assert len(name) <= length
        ctypes.memmove(out, name, len(name))

    def cuDeviceGetAttribute(out: Any, attribute: int, device: int) -> None:
        out[0] = gpus[device][1][{75: 0, 76: 1}[attribute]]

    def cuGetErrorName(code: int, out: Any) -> None:
        kept.append(f"CUDA_ERROR_{code}".encode())
        out[0] = kept[-1]

    def cuGetErrorString(code: int, out: Any) -> None:
        out[0] = b"what it means"

    calls = {
        cuInit: (c_uint,),
        cuDeviceGetCount: (POINTER(c_int),),
        cuDriverGetVersion: (POINTER(c_int),),
        cuDeviceGet: (POINTER(c_int), c_int),
        cuDeviceGetName: (c_void_p, c_int, c_int),
        cuDeviceGetAttribute: (POINTER(c_int), c_int, c_int),
        cuGetErrorName: (c_int, POINTER(c_char_p)),
        cuGetErrorString: (c_int, POINTER(c_char_p)),
    }
    return SimpleNamespace(
        **{
            work.__name__: _exported(work, arguments, (fails or {}).get(work.__name__, 0))
            for work, arguments in calls.items()
        }
    )


def _exported(work: Any, arguments: tuple[Any, ...], code: int) -> Any:
    """A function pointer, as in a library: its caller declares the arguments."""

    def call(*given: Any) -> int:
        if code == 0:
            work(*given)
        return code

    pointer = ctypes.CFUNCTYPE(c_int, *arguments)(call)
    bare = ctypes.CFUNCTYPE(c_int)(ctypes.cast(pointer, c_void_p).value or 0)
    bare.keeps = pointer  # type: ignore[attr-defined]
    return bare


def load_driver(monkeypatch: pytest.MonkeyPatch, driver: SimpleNamespace | None) -> None:
    """Let ``libcuda`` find ``driver``, or none."""

    def load(name: str) -> SimpleNamespace:
        assert name == "libcuda.so.1"
        if driver is None:
            raise OSError("libcuda.so.1: cannot open shared object file")
        return driver

    monkeypatch.setattr(ctypes, "CDLL", load)
