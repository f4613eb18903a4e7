"""Both providers of device memory on doubles of their modules, and CUDA graphs on a double of the driver."""

import ctypes
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from engines.errors import BuildError, EngineUnavailableError
from engines.gpu import gpus
from engines.memory import open_device
from engines.memory import pycuda as pycuda_buffers
from engines.memory.base import Device, DeviceBuffer, Event, Graph, Stream
from engines.memory.cuda_graphs import _CALLS, CudaGraph, capture, driver_library
from engines.memory.pycuda import PycudaDevice, open_pycuda
from engines.memory.torch import TorchDevice, open_torch
from tests.libcuda_double import driver_double, load_driver

ROOT = Path(__file__).parents[3]


class Driver(ModuleType):
    """``pycuda.driver`` on host memory; every call asks for a current context, as PyCUDA's do."""

    class Error(Exception):
        pass

    class LogicError(Error):
        pass

    class MemoryError(Error):  # noqa: A001
        pass

    event_flags = SimpleNamespace(BLOCKING_SYNC=1, DISABLE_TIMING=2)

    def __init__(self, gpus: int = 1) -> None:
        super().__init__("pycuda.driver")
        self.gpus, self.retained, self.log, self.now = gpus, 0, list[str](), 0.0
        self.stacks = threading.local()
        self.memory: dict[int, np.ndarray] = {}
        self.Context = SimpleNamespace(pop=lambda: self.stack().pop())
        driver = self

        class Device:
            def __init__(self, index: int) -> None:
                assert index == 0

            count = staticmethod(lambda: driver.gpus)
            name = staticmethod(lambda: "Double GPU")
            compute_capability = staticmethod(lambda: (8, 9))
            pci_bus_id = staticmethod(lambda: "0000:65:00.0")

            def retain_primary_context(self) -> Any:
                driver.retained += 1
                context = SimpleNamespace(detach=lambda: None)
                context.push = lambda: driver.stack().append(context)
                return context

        class Stream:
            def __init__(self, flags: int) -> None:
                driver.needs_context()
                assert flags == 1  # non-blocking
                self.handle = id(self)

            def synchronize(self) -> None:
                driver.needs_context()

            def wait_for_event(self, event: Any) -> None:
                driver.needs_context()
                assert isinstance(event, Event)

            def __del__(self) -> None:
                driver.ended("stream")

        class Event:
            def __init__(self, flags: int) -> None:
                driver.needs_context()
                self.flags = flags

            def record(self, stream: Any) -> "Event":
                driver.needs_context()
                assert isinstance(stream, Stream)
                driver.now += 1.5
                self.time = driver.now
                return self

            def synchronize(self) -> "Event":
                driver.needs_context()
                return self

            def time_since(self, event: Any) -> float:
                driver.needs_context()
                return float(self.time - event.time)

            def __del__(self) -> None:
                driver.ended("event")

        self.Device, self.Stream, self.Event = Device, Stream, Event

    def stack(self) -> list[Any]:
        if not hasattr(self.stacks, "contexts"):
            self.stacks.contexts = []
        contexts: list[Any] = self.stacks.contexts
        return contexts

    def needs_context(self) -> None:
        if not self.stack():
            raise self.LogicError("cuCall failed: invalid device context")

    def ended(self, what: str) -> None:
        self.log.append(what if self.stack() else f"{what} leaked")

    def init(self) -> None:
        if self.gpus < 0:
            raise self.Error("cuInit failed: no CUDA-capable device is detected")

    def mem_alloc(self, nbytes: int) -> Any:
        self.needs_context()
        if nbytes > 1 << 30:
            raise self.MemoryError("cuMemAlloc failed: out of memory")
        memory = np.zeros(nbytes, np.uint8)
        pointer = int(memory.ctypes.data)
        self.memory[pointer] = memory

        class Allocation:
            def __int__(self) -> int:
                return pointer

            free = staticmethod(lambda: (self.needs_context(), self.memory.pop(pointer)))

        return Allocation()

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        self.needs_context()
        return np.empty(shape, dtype)

    def memcpy_htod(self, dest: int, src: np.ndarray) -> None:
        self.needs_context()
        self.memory[dest][: src.nbytes] = src.reshape(-1).view(np.uint8)

    def memcpy_htod_async(self, dest: int, src: np.ndarray, stream: Any) -> None:
        assert isinstance(stream, self.Stream)
        self.memcpy_htod(dest, src)

    def memcpy_dtoh_async(self, dest: np.ndarray, src: int, stream: Any) -> None:
        self.needs_context()
        assert isinstance(stream, self.Stream)
        dest.reshape(-1).view(np.uint8)[:] = self.memory[src][: dest.nbytes]


class Cuda:
    """``torch.cuda`` without a GPU: streams in name only, times that are counted."""

    class OutOfMemoryError(RuntimeError):
        pass

    def __init__(self) -> None:
        self.now, self.entered, self.emptied = 0.0, list[Any](), False
        cuda = self

        class Stream:
            def __init__(self, device: Any) -> None:
                self.cuda_stream = id(self)

            def synchronize(self) -> None:
                pass

            def wait_event(self, event: Any) -> None:
                assert isinstance(event, Event)

        class Event:
            def __init__(self, *, enable_timing: bool, blocking: bool) -> None:
                self.timing = enable_timing

            def record(self, stream: Any) -> None:
                assert isinstance(stream, Stream)
                cuda.now += 1.5
                self.time = cuda.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end_event: Any) -> float:
                return float(end_event.time - self.time)

        self.Stream, self.Event = Stream, Event
        self.current_stream = Stream

    def is_available(self) -> bool:
        return True

    def get_device_properties(self, index: int) -> Any:
        return SimpleNamespace(
            name="Double GPU", major=8, minor=9, pci_domain_id=0, pci_bus_id=0x65, pci_device_id=0
        )

    def device(self, index: int) -> Any:
        return nullcontext()

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.entered.append(stream)
        yield

    def empty_cache(self) -> None:
        self.emptied = True


def torch_double() -> Any:
    """PyTorch, its GPU's tensors on the CPU."""
    double = SimpleNamespace(
        uint8=torch.uint8,
        from_numpy=torch.from_numpy,
        device=lambda kind, index: torch.device("cpu"),
        cuda=Cuda(),
        version=SimpleNamespace(cuda="13.0"),
        __version__="2.9.0",
    )

    def empty(
        nbytes: int, *, dtype: torch.dtype, device: Any = None, pin_memory: bool = False
    ) -> torch.Tensor:
        assert pin_memory == (device is None)
        if nbytes > 1 << 30:
            raise Cuda.OutOfMemoryError("CUDA out of memory")
        return torch.empty(nbytes, dtype=dtype, device=device)

    double.empty = empty
    return double


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture(params=["pycuda", "torch"])
def device(request: pytest.FixtureRequest, driver: Driver) -> Iterator[Device]:
    made: Device = PycudaDevice(driver) if request.param == "pycuda" else TorchDevice(torch_double())
    assert made.name == request.param
    with made:
        yield made


def test_protocols(device: Device) -> None:
    assert isinstance(device, Device)
    assert (device.gpu, device.compute_capability, device.pci_bus_id) == ("Double GPU", "8.9", "0000:65:00.0")
    buffer, stream, event = device.allocate(16), device.stream(), device.event()
    assert isinstance(buffer, DeviceBuffer)
    assert isinstance(stream, Stream)
    assert isinstance(event, Event)
    assert stream.handle > 0
    assert buffer.pointer > 0
    assert buffer.nbytes == 16


def test_copies_both_ways(device: Device) -> None:
    stream, buffer = device.stream(), device.allocate(64)
    x, y = device.pinned((2, 3), np.float32), device.pinned((2, 3), np.float32)
    assert (x.shape, x.dtype, x.flags.c_contiguous, x.flags.writeable) == ((2, 3), np.float32, True, True)
    x[:], y[:] = np.arange(6).reshape(2, 3), 0
    device.copy_to_device(buffer, x, stream)
    device.copy_to_host(y, buffer, stream)
    stream.synchronize()
    np.testing.assert_array_equal(y, x)
    constant = np.arange(8.0)
    constant.setflags(write=False)
    device.upload(buffer, constant)
    back = device.pinned((8,), np.float64)
    device.copy_to_host(back, buffer, stream)
    stream.synchronize()
    np.testing.assert_array_equal(back, constant)
    buffer.free()
    buffer.free()


def test_wrong_arrays_are_refused(device: Device) -> None:
    buffer, stream = device.allocate(16), device.stream()
    with pytest.raises(ValueError, match="at most 16 bytes, got 20"):
        device.copy_to_device(buffer, np.zeros(5, np.float32), stream)
    with pytest.raises(ValueError, match="C-contiguous"):
        device.copy_to_host(np.zeros((2, 2), np.float32).T, buffer, stream)
    with pytest.raises(ValueError, match="C-contiguous"):
        device.upload(buffer, np.zeros(8, np.float32)[::4])


def test_events_measure_from_the_earlier_one(device: Device) -> None:
    stream, first, second = device.stream(), device.event(), device.event()
    first.record(stream)
    stream.wait(first)
    second.record(stream)
    second.synchronize()
    assert second.elapsed_ms(first) == 1.5


def test_full_gpu(device: Device) -> None:
    with pytest.raises(BuildError, match=r"the Double GPU has no room for 2048\.0 MiB more"):
        device.allocate(1 << 31)


def test_other_threads_may_call(device: Device) -> None:
    stream, buffer, found = device.stream(), device.allocate(16), list[float]()

    def work() -> None:
        host = np.zeros(4, np.float32)
        with device.current(), device.current():
            device.upload(buffer, np.full(4, 7, np.float32))
        device.copy_to_host(host, buffer, stream)
        found.extend(host)
        buffer.free()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [7] * 4


def test_pycuda_keeps_one_primary_context_and_leaves_none_current(driver: Driver) -> None:
    for _ in range(2):
        with PycudaDevice(driver) as device:
            device.stream()
            device.event(timing=False)
            assert driver.stack() == []
            with device.current():
                assert len(driver.stack()) == 1
    assert (driver.retained, driver.stack()) == (1, [])
    # PyCUDA's objects end while the context is current, or it would leak them.
    assert driver.log == ["stream", "event"] * 2


def test_pycuda_flags_of_events(driver: Driver) -> None:
    device = PycudaDevice(driver)
    assert device.event()._event.flags == 1
    assert device.event(timing=False)._event.flags == 3
    device.close()


def test_pycuda_leaves_no_context_behind_an_error(driver: Driver) -> None:
    device = PycudaDevice(driver)
    with pytest.raises(BuildError):
        device.allocate(1 << 31)
    assert driver.stack() == []


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Puts doubles in the place of PyCUDA and PyTorch, or hides them."""

    def set_up(driver: Driver | None, torch_module: Any) -> None:
        package = ModuleType("pycuda")
        monkeypatch.setitem(sys.modules, "pycuda", package if driver is not None else None)
        monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
        monkeypatch.setitem(sys.modules, "torch", torch_module)

    pycuda_buffers._primary_context.cache_clear()
    return set_up


def test_auto_takes_pycuda_first(modules: Any, driver: Driver) -> None:
    modules(driver, torch_double())
    assert open_device().name == "pycuda"
    assert open_device("torch").name == "torch"


@pytest.mark.parametrize("driver_double", [None, Driver(0), Driver(-1)])
def test_auto_takes_torch_where_pycuda_finds_no_gpu(modules: Any, driver_double: Driver | None) -> None:
    modules(driver_double, torch_double())
    assert open_device("auto").name == "torch"
    with pytest.raises(EngineUnavailableError, match="PyCUDA"):
        open_device("pycuda")


def test_a_missing_pycuda_is_named_with_its_own_extra_and_what_does_without(modules: Any) -> None:
    modules(None, torch_double())
    with pytest.raises(EngineUnavailableError, match=r"\[pycuda\].*--buffers torch does without"):
        open_device("pycuda")


def test_neither(modules: Any) -> None:
    modules(None, None)
    with pytest.raises(
        EngineUnavailableError, match=r"no GPU answers.*PyCUDA.*pip install.*PyTorch.*pip install"
    ):
        open_device()
    with pytest.raises(
        EngineUnavailableError, match="expected --buffers from auto, pycuda, torch, got 'cupy'"
    ):
        open_device("cupy")


def test_torch_without_cuda_or_gpu(modules: Any) -> None:
    double = torch_double()
    modules(None, double)
    double.version.cuda = None
    with pytest.raises(EngineUnavailableError, match="built without CUDA"):
        open_torch()
    double.version.cuda = "13.0"
    double.cuda.is_available = lambda: False
    with pytest.raises(EngineUnavailableError, match=r"driver is as new as CUDA 13\.0"):
        open_torch()


WITHOUT = """
import sys
sys.modules[{blocked!r}] = None
from engines.memory import open_device
from engines.errors import EngineUnavailableError
try:
    open_device({name!r})
except EngineUnavailableError as error:
    assert {title!r} in str(error), error
assert sys.modules[{blocked!r}] is None
assert {others}.isdisjoint(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "blocked", "title", "others"),
    [
        ("pycuda", "torch", "PyCUDA", {"torch._C", "torch.cuda"}),
        ("torch", "pycuda", "PyTorch", {"pycuda.driver"}),
    ],
)
def test_one_does_not_need_the_other(name: str, blocked: str, title: str, others: set[str]) -> None:
    code = WITHOUT.format(name=name, blocked=blocked, title=title, others=others)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Library:
    """``libcuda``'s graph calls: a graph is a number, its work the Python calls that were captured."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.fails: dict[str, int] = {}
        self.nodes = 3
        self.graphs = 0

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> int:
            self.log.append(name)
            code = self.fails.get(name, 0)
            if code == 0:
                self.work(name, arguments)
            return code

        return call

    def work(self, name: str, arguments: tuple[Any, ...]) -> None:
        if name in {"cuStreamEndCapture", "cuGraphInstantiateWithFlags"}:
            arguments[1 if name == "cuStreamEndCapture" else 0]._obj.value = 0x77
            self.graphs += 1
        elif name in {"cuGraphDestroy", "cuGraphExecDestroy"}:
            self.graphs -= 1
        elif name == "cuGraphGetNodes":
            arguments[2]._obj.value = self.nodes
        elif name == "cuGetErrorName":
            arguments[1]._obj.value = b"CUDA_ERROR_X"
        elif name == "cuGetErrorString":
            arguments[1]._obj.value = b"what it means"


@pytest.fixture
def stream(driver: Driver) -> Any:
    return PycudaDevice(driver).stream()


def test_graph_is_captured_launched_and_closed(stream: Any) -> None:
    library, ran = Library(), list[str]()
    graph = capture(stream, lambda: ran.append("work"), library)
    assert isinstance(graph, Graph)
    assert ran == ["work"]
    assert library.log == [
        "cuStreamBeginCapture_v2",
        "cuStreamEndCapture",
        "cuGraphGetNodes",
        "cuGraphInstantiateWithFlags",
        "cuGraphDestroy",
    ]
    graph.launch(stream)
    graph.close()
    graph.close()
    assert library.log[5:] == ["cuGraphLaunch", "cuGraphExecDestroy"]
    assert library.graphs == 0
    with pytest.raises(BuildError, match="closed"):
        graph.launch(stream)


def test_error_of_the_work_comes_first_and_ends_the_capture(stream: Any) -> None:
    library = Library()

    def work() -> None:
        raise BuildError("could not enqueue")

    with pytest.raises(BuildError, match="could not enqueue"):
        capture(stream, work, library)
    assert library.log == ["cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphDestroy"]
    assert library.graphs == 0


def test_driver_errors_have_names(stream: Any) -> None:
    library = Library()
    library.fails = {"cuStreamEndCapture": 901}
    with pytest.raises(
        BuildError,
        match=r"cuStreamEndCapture failed with CUDA_ERROR_X \(what it means\); the network holds work that can't",
    ):
        capture(stream, lambda: None, library)
    library.fails = {"cuGraphInstantiateWithFlags": 1, "cuGetErrorName": 1}
    with pytest.raises(BuildError, match=r"cuGraphInstantiateWithFlags failed with error 1$"):
        capture(stream, lambda: None, library)
    assert library.graphs == 0
    library.fails = {"cuStreamBeginCapture_v2": 900}
    with pytest.raises(BuildError, match="cuStreamBeginCapture failed"):
        capture(stream, lambda: pytest.fail("nothing to capture"), library)


def test_empty_graph_is_refused(stream: Any) -> None:
    library = Library()
    library.nodes = 0
    with pytest.raises(BuildError, match="the CUDA graph is empty"):
        capture(stream, lambda: None, library)
    assert library.graphs == 0


def test_both_devices_capture_by_the_driver(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr("engines.memory.cuda_graphs.driver_library", lambda: library)
    graph = device.capture(device.stream(), lambda: None)
    assert isinstance(graph, CudaGraph)
    graph.close()
    assert library.graphs == 0


def test_missing_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.libcuda.LIBRARY", "libabsent.so.1")
    with pytest.raises(EngineUnavailableError, match="NVIDIA driver"):
        driver_library()


def test_old_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that counts GPUs, but knows no graphs."""
    load_driver(monkeypatch, driver_double())
    assert gpus().number == 1
    with pytest.raises(EngineUnavailableError, match=r"CUDA 11\.4 or newer.*cuStreamBeginCapture_v2"):
        driver_library()


def test_every_call_of_a_graph_has_its_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {name: ctypes.CFUNCTYPE(ctypes.c_int)(lambda *_: 0) for name in _CALLS}
    load_driver(monkeypatch, SimpleNamespace(**vars(driver_double()), **calls))
    library = driver_library()
    assert library.cuStreamEndCapture.argtypes == (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
    assert all(getattr(library, name).argtypes for name in _CALLS)


def test_pycuda_that_was_built_for_another_driver(modules: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyCUDA warns, and then its import fails."""

    def import_module(name: str) -> Any:
        warnings.warn("the version of your CUDA header does not match", stacklevel=2)
        raise ImportError("undefined symbol: cuArrayCreate_v2")

    monkeypatch.setattr("engines.memory.pycuda.importlib.import_module", import_module)
    with (
        pytest.warns(UserWarning, match="CUDA header"),
        pytest.raises(EngineUnavailableError, match="undefined symbol: cuArrayCreate_v2"),
    ):
        open_pycuda()
