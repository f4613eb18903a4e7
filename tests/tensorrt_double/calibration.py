"""A double of TensorRT 10's calibration: what the builder does with an ``IInt8Calibrator``.

It calls as the 10.16 bindings do (``pyInt8.cpp``): exceptions of a callback are printed and swallowed, after
which ``get_batch`` counts as the end of the data; the list of pointers is copied without a look at its length;
the values behind a pointer are read, as many as the network's input has. "Device" memory is host memory here.
What the bindings would answer with undefined behaviour raises ``DoubleError``.
"""

import ctypes
import enum
import math
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from calibrators.options import CalibrationOptions
from calibrators.ranges.histogram import HistogramCollector
from calibrators.ranges.search import amax_from_histogram

Array = NDArray[np.float32]
POISON = -1.0e30


class DoubleError(BaseException):
    """What would be a crash or undefined behaviour; no ``except Exception`` catches it."""


class CalibrationAlgoType(enum.IntEnum):
    LEGACY_CALIBRATION = 0
    ENTROPY_CALIBRATION = 1
    ENTROPY_CALIBRATION_2 = 2
    MINMAX_CALIBRATION = 3


class IInt8Calibrator:
    """The bindings' own methods do nothing; a subclass must call ``__init__`` and override the four callbacks."""

    def __init__(self) -> None:
        self.is_ready = True

    def get_algorithm(self) -> CalibrationAlgoType:
        raise NotImplementedError

    def get_batch_size(self) -> int:
        raise NotImplementedError

    def get_batch(self, names: list[str]) -> list[int]:
        return []

    def read_calibration_cache(self) -> Any:
        return None

    def write_calibration_cache(self, cache: Any) -> None:
        return None


class IInt8EntropyCalibrator2(IInt8Calibrator):
    def get_algorithm(self) -> CalibrationAlgoType:
        return CalibrationAlgoType.ENTROPY_CALIBRATION_2


class IInt8MinMaxCalibrator(IInt8Calibrator):
    def get_algorithm(self) -> CalibrationAlgoType:
        return CalibrationAlgoType.MINMAX_CALIBRATION


HEADERS = {
    CalibrationAlgoType.ENTROPY_CALIBRATION_2: "EntropyCalibration2",
    CalibrationAlgoType.MINMAX_CALIBRATION: "MinMaxCalibration",
}


def fake_module(version: str = "10.16.1.11", **attributes: Any) -> ModuleType:
    """A module ``tensorrt`` of this version; 11 has no calibrators."""
    module = ModuleType("tensorrt")
    module.__file__ = "tensorrt/__init__.py"
    module.__spec__ = ModuleSpec("tensorrt", None, origin=module.__file__)  # PyTorch asks for it
    names: dict[str, Any] = {"__version__": version, "Builder": object}
    if int(version.partition(".")[0]) < 11:
        bases = (IInt8Calibrator, IInt8EntropyCalibrator2, IInt8MinMaxCalibrator)
        names |= {base.__name__: base for base in bases}
    module.__dict__.update(names | attributes)
    return module


@dataclass
class HostBuffer:
    """A piece of host memory in the place of device memory; what is freed is poisoned."""

    data: Array | None
    pointer: int

    def free(self) -> None:
        if self.data is None:
            raise DoubleError("freed twice")
        self.data[:] = POISON
        # The memory itself stays with the owner, so that a late read finds the poison.
        self.data = None


@dataclass
class HostMemory:
    """Allocates and uploads like a device; ``live`` are the buffers that were not freed, with their sizes."""

    owned: list[Array] = field(default_factory=list)
    buffers: list[HostBuffer] = field(default_factory=list)
    uploads: int = 0

    def allocate(self, nbytes: int) -> HostBuffer:
        array = np.full(nbytes // 4, POISON, np.float32)
        self.owned.append(array)
        self.buffers.append(HostBuffer(array, array.ctypes.data))
        return self.buffers[-1]

    def upload(self, buffer: HostBuffer, array: NDArray[Any]) -> None:
        if buffer.data is None:
            raise DoubleError("upload to a buffer that was freed")
        if not array.flags.c_contiguous or array.dtype != np.float32 or array.size > buffer.data.size:
            raise DoubleError(f"upload of {array.dtype}{array.shape} to {buffer.data.size} floats")
        self.uploads += 1
        buffer.data[: array.size] = array.ravel()

    @property
    def live(self) -> dict[int, int]:
        return {buffer.pointer: buffer.data.nbytes for buffer in self.buffers if buffer.data is not None}

    def read(self, pointer: int, shape: Sequence[int]) -> Array:
        """The values that a kernel would read there."""
        nbytes = math.prod(shape) * 4
        if self.live.get(pointer, 0) < nbytes:
            raise DoubleError(f"reads {nbytes} bytes at {pointer}, of {self.live}: out of bounds or freed")
        values = (ctypes.c_float * math.prod(shape)).from_address(pointer)
        return np.array(values, np.float32).reshape(shape)


Activations = Callable[[Array], Mapping[str, Array]]


def two_tensors(x: Array) -> dict[str, Array]:
    """The activations of a network without weights: its input, and a ReLU."""
    return {"input": x, "relu": np.maximum(x, 0)}


@dataclass
class Calibration:
    """One calibration by the double.

    ``shape`` is that of the calibration profile; None takes the calibrator's batch with (C, H, W) of ``image``.
    ``forced`` are scales that the double writes in place of those it found.
    """

    memory: HostMemory
    image: tuple[int, int, int] = (3, 8, 8)
    shape: tuple[int, ...] | None = None
    names: Sequence[str] = ("input",)
    activations: Activations = two_tensors
    version: int = 101601
    header: str | None = None
    forced: Mapping[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    batches: list[Array] = field(default_factory=list)
    scales: dict[str, float] | None = None
    cached: bool = False

    def run(self, calibrator: IInt8Calibrator) -> bool:
        """Ask the cache, else the batches, and write the result; whether there are scales to build with."""
        if not getattr(calibrator, "is_ready", False):
            raise TypeError("__init__() must be called when overriding __init__")
        header = self.header or f"TRT-{self.version}-{HEADERS[calibrator.get_algorithm()]}"
        text = swallowed(calibrator.read_calibration_cache)
        if text is not None:
            self.cached = bytes(text).decode().split("\n")[0] == header
            if self.cached:
                self.scales = scales_from_text(bytes(text).decode())
            else:
                self.warnings.append("Calibration table does not match calibrator algorithm type.")
        if not self.cached:
            self.scales = self._calibrated(calibrator)
        if self.scales is None:
            return False
        # TensorRT writes after it has read, too.
        written = text_from_scales(header, self.scales).encode()
        swallowed(calibrator.write_calibration_cache, memoryview(written))
        return True

    def _calibrated(self, calibrator: IInt8Calibrator) -> dict[str, float] | None:
        shape = self.shape or (calibrator.get_batch_size(), *self.image)
        collectors: dict[str, HistogramCollector] = {}
        while pointers := swallowed(calibrator.get_batch, list(self.names)):
            if len(pointers) < len(self.names):
                raise DoubleError(f"reads {len(self.names)} pointers of a list of {len(pointers)}")
            self.batches.append(self.memory.read(pointers[0], shape))
            for name, values in self.activations(self.batches[-1]).items():
                collectors.setdefault(name, HistogramCollector(name)).collect(torch.from_numpy(values))
        if pointers is not None and self.batches:
            self.memory.read(self.memory.buffers[-1].pointer, shape)  # still at work on the last batch
        if not collectors:
            self.warnings.append("Calibration failure occurred with no scaling factors detected.")
            return None
        largest = calibrator.get_algorithm() is CalibrationAlgoType.MINMAX_CALIBRATION
        options = CalibrationOptions("max" if largest else "entropy")
        found = {name: amax_from_histogram(c.histogram(), options) / 127 for name, c in collectors.items()}
        return found | dict(self.forced)


def swallowed(callback: Callable[..., Any], *arguments: Any) -> Any:
    """What ``callback`` gives; any exception is printed and answered with None, KeyboardInterrupt too."""
    try:
        return callback(*arguments)
    except DoubleError:
        raise
    except BaseException as error:  # noqa: BLE001 - pybind11 catches all of them
        print(f"[ERROR] Exception caught in {callback.__name__}(): {error}", file=sys.stderr)
        return None


def text_from_scales(header: str, scales: Mapping[str, float]) -> str:
    """The cache as TensorRT writes it."""
    return (
        "\n".join([header, *(f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items())])
        + "\n"
    )


def scales_from_text(text: str) -> dict[str, float]:
    """The scales of a cache."""
    lines = [line.rpartition(": ") for line in text.splitlines()[1:]]
    return {name: struct.unpack(">f", bytes.fromhex(digits))[0] for name, _, digits in lines}


def calibrate_in(memory: HostMemory) -> Callable[[IInt8Calibrator, Any, Sequence[int]], bool]:
    """The calibration of the builder's double: of a network, with batches of a shape."""

    def calibrate(calibrator: IInt8Calibrator, network: Any, shape: Sequence[int]) -> bool:
        names = [network.get_input(index).name for index in range(network.num_inputs)]
        return Calibration(memory, shape=tuple(shape), names=names).run(calibrator)

    return calibrate
