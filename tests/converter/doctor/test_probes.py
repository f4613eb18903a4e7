"""Probes of packages: real ones, and made-up modules that are broken in every way a user has seen."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from converter.doctor import probes
from converter.doctor.probes import Finding, answer, ask, ask_all, installed_version, module_of
from engines import gpu as gpu_module
from tests.libcuda_double import driver_double, load_driver

MADE_UP = frozenset({"tensorrt", "pycuda", "pytorch_quantization", "modelopt", "pynvml"})


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder first on the path; what is written there is found by this process and its children."""
    monkeypatch.syspath_prepend(str(tmp_path))
    real = {name: entry for name, entry in sys.modules.items() if name.partition(".")[0] in MADE_UP}
    for name in real:
        del sys.modules[name]
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] in MADE_UP]:
        del sys.modules[name]
    sys.modules.update(real)


def module(folder: Path, name: str, text: str) -> None:
    path = folder / Path(*name.split("."))
    path.parent.mkdir(parents=True, exist_ok=True)
    for parent in path.relative_to(folder).parents:
        if str(parent) != ".":
            (folder / parent / "__init__.py").touch()
    path.with_suffix(".py").write_text(text)


def installed(folder: Path, package: str, version: str) -> None:
    metadata = folder / f"{package.replace('-', '_')}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")


def test_onnxruntime_really_runs() -> None:
    found = ask("onnxruntime")
    assert (found.works, found.reason) == (True, "")
    assert found.version


def test_what_is_not_there_has_no_version_and_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(probes._NAMES, "tensorrt", probes._Names(("no-such-package",), ("no_such_module",)))
    assert answer("tensorrt") == {"version": None, "works": False, "reason": "", "details": {}}


def test_a_broken_import_gives_its_reason(packages: Path) -> None:
    module(packages, "pycuda.driver", "raise ImportError('libcuda.so.1: cannot open\\nsecond line')")
    found = ask("pycuda")
    assert (found.works, found.reason) == (False, "ImportError: libcuda.so.1: cannot open")


def test_an_import_that_kills_its_process_is_a_finding(packages: Path) -> None:
    text = "import os, signal, sys; sys.stderr.write('GLIBC_2.99 not found\\n'); sys.stderr.flush()\n"
    module(packages, "tensorrt", text + "os.kill(os.getpid(), signal.SIGABRT)")
    installed(packages, "tensorrt", "10.16.1")
    found = ask("tensorrt")
    assert found.version == "10.16.1"
    assert found.reason == "the process that imported it ended with signal SIGABRT: GLIBC_2.99 not found"


def test_an_import_that_hangs_is_a_finding(packages: Path) -> None:
    module(packages, "pycuda.driver", "import time; time.sleep(60)")
    found = ask("pycuda", timeout_s=1.0)
    assert found.reason == "the process that imported it did not end within 1 s"


def test_a_folder_called_tensorrt_is_not_tensorrt(packages: Path) -> None:
    (packages / "tensorrt").mkdir()
    (packages / "tensorrt" / "tensorrt.pyi").touch()
    found = Finding(**answer("tensorrt"))
    assert (found.version, found.works) == (None, False)
    assert "isn't TensorRT" in found.reason
    assert found.details == {"impostor": True}


TENSORRT = """
__version__ = "10.13.0"
class Logger:
    ERROR = 2
    def __init__(self, level): pass
class Builder:
    def __init__(self, logger): {builder}
class Runtime:
    def __init__(self, logger): pass
"""


def test_tensorrt_works_where_its_builder_can_be_made(packages: Path) -> None:
    module(packages, "tensorrt", TENSORRT.format(builder="pass"))
    assert Finding(**answer("tensorrt")) == Finding("10.13.0", True)


def test_tensorrt_whose_builder_fails_does_not_work(packages: Path) -> None:
    raising = "raise TypeError('pybind11::init(): factory function returned nullptr')"
    module(packages, "tensorrt", TENSORRT.format(builder=raising))
    installed(packages, "tensorrt-cu13", "10.13.0")
    found = Finding(**answer("tensorrt"))
    assert (found.version, found.works) == ("10.13.0", False)
    assert found.reason == "TypeError: pybind11::init(): factory function returned nullptr"


def test_an_empty_package_is_no_quantizer(packages: Path) -> None:
    installed(packages, "pytorch-quantization", "2.2.1")
    assert Finding(**answer("pytorch-quantization")) == Finding(
        "2.2.1", False, "the package of this name is empty"
    )


def test_quantizers_are_looked_for(packages: Path) -> None:
    module(packages, "pytorch_quantization.nn", "class TensorQuantizer: pass")
    installed(packages, "pytorch-quantization", "2.2.1")
    assert Finding(**answer("pytorch-quantization")) == Finding("2.2.1", True)
    module(packages, "modelopt.torch.quantization.nn", "class Other: pass")
    found = ask("modelopt")
    assert not found.works
    assert "TensorQuantizer" in found.reason


PYCUDA = """
def init(): pass
class Device:
    @staticmethod
    def count(): return {}
"""


@pytest.mark.parametrize(("number", "works"), [(2, True), (0, False)])
def test_pycuda_works_where_it_reaches_a_gpu(packages: Path, number: int, works: bool) -> None:
    module(packages, "pycuda.driver", PYCUDA.format(number))
    found = Finding(**answer("pycuda"))
    assert (found.works, found.reason) == (works, "" if works else "it finds no GPU")


RTX_6000 = ("NVIDIA RTX 6000 Ada Generation", (8, 9))
H100 = ("NVIDIA H100 80GB HBM3", (9, 0))


def test_gpus_are_named_by_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    load_driver(monkeypatch, driver_double((RTX_6000, H100), cuda=12080))
    assert Finding(**answer("gpu")) == Finding(
        None,
        True,
        "",
        {
            "cuda": "12.8",
            "gpus": [
                {"name": "NVIDIA RTX 6000 Ada Generation", "compute_capability": "8.9"},
                {"name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0"},
            ],
        },
    )


def test_no_driver_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_module, "gpus", lambda: gpu_module.Gpus(0, "the driver is asleep"))
    assert Finding(**answer("gpu")) == Finding(None, False, "the driver is asleep")


def test_a_gpu_that_the_driver_does_not_describe_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    load_driver(monkeypatch, driver_double(fails={"cuDeviceGetName": 999}))
    finding = Finding(**answer("gpu"))
    assert not finding.works
    assert "cuDeviceGetName failed with CUDA_ERROR_999 (what it means)" in finding.reason


NVML = """
NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
class NVMLError(Exception): pass
class Pci: busId = b"00000000:65:00.0"
def nvmlInit(): {init}
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 1
def nvmlDeviceGetHandleByIndex(index): return "handle"
def nvmlDeviceGetHandleByPciBusId(name): return {{"00000000:65:00.0": "handle"}}[name]
def nvmlDeviceGetPciInfo(handle): return Pci
def nvmlSystemGetDriverVersion(): return "570.86.15"
def nvmlDeviceGetName(handle): return "NVIDIA RTX A6000"
def nvmlDeviceGetTemperature(handle, sensor): return 41
def __getattr__(name):
    def unsupported(*arguments): raise NVMLError("Not Supported")
    return unsupported
"""


def test_nvml_tells_the_state_of_each_gpu(packages: Path) -> None:
    module(packages, "pynvml", NVML.format(init="pass"))
    found = Finding(**answer("nvml"))
    assert found.works
    assert found.details["driver"] == "570.86.15"
    (state,) = found.details["gpus"]
    assert (state["gpu"], state["temperature_c"], state["power_w"]) == ("NVIDIA RTX A6000", 41, None)


def test_nvml_without_a_driver(packages: Path) -> None:
    module(packages, "pynvml", NVML.format(init="raise NVMLError('NVML Shared Library Not Found')"))
    assert Finding(**answer("nvml")).reason == "NVMLError: NVML Shared Library Not Found"


def pytorch(cuda: str | None, trouble: str = "") -> types.ModuleType:
    fake: Any = types.ModuleType("torch")
    fake.__version__, fake.version = "2.14.1", types.SimpleNamespace(cuda=cuda)

    def init() -> None:
        if trouble:
            raise RuntimeError(trouble)

    fake.cuda = types.SimpleNamespace(init=init)
    tensor = types.SimpleNamespace(add_=lambda value: tensor, cpu=lambda: tensor)
    fake.ones = lambda number, device: tensor
    module_: types.ModuleType = fake
    return module_


@pytest.mark.parametrize(
    ("cuda", "trouble", "works", "reason"),
    [
        (None, "", False, "this PyTorch is built without CUDA"),
        ("13.0", "The NVIDIA driver on your system is too old (found version 11040).\nPlease update", False,
         "RuntimeError: The NVIDIA driver on your system is too old (found version 11040)."),
        ("13.0", "", True, ""),
    ],
)  # fmt: skip
def test_pytorch_on_the_gpu(
    monkeypatch: pytest.MonkeyPatch, cuda: str | None, trouble: str, works: bool, reason: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch", pytorch(cuda, trouble))
    assert probes.torch() == Finding("2.14.1", works, reason, {"cuda": cuda})


def test_several_probes_are_asked_by_name() -> None:
    found = ask_all(("onnxruntime", "tensorrt-rtx"))
    assert list(found) == ["onnxruntime", "tensorrt-rtx"]
    assert found["onnxruntime"].works


def test_names() -> None:
    assert installed_version("torch")
    assert module_of("torch") == "torch"
    assert installed_version("gpu") is None
    assert installed_version("system") is None
    assert set(probes._NAMES) | {"gpu", "system"} == set(probes.PROBES)
