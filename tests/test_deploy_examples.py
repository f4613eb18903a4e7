"""The deployment scripts in ``examples/``: one really runs, the other with doubles of TensorRT's runtime and PyCUDA."""

import ast
import json
import re
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from calibrators.data.images import images_from_path
from calibrators.data.input_spec import ORDERS, ChannelOrder, InputSpec, Resize
from converter.cli.convert import command
from converter.report.document import plain
from engines.onnxruntime.engine import OnnxRuntimeEngine
from tests.converter.digits import DIGITS, INPUT, MODEL, quick_conversions
from tests.tensorrt_double.memory import HostDevice, HostStream
from tests.tensorrt_double.runtime import plan_of, runtime_double

EXAMPLES = DIGITS.parent
ON_CPU, ON_GPU = EXAMPLES / "deploy_onnxruntime.py", EXAMPLES / "deploy_pycuda.py"
LINE = re.compile(r"class +(\d+) +([\d.]+) %")
SHARED = ("LIKELIEST", "input_from_image", "probabilities")
PERCENT = 0.01
"""Rounding of a printed percentage, and of float32 sums in another order."""

Run = Callable[[Path, Path, Path], dict[int, float]]


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short conversion of the digits."""
    folder = tmp_path_factory.mktemp("deploy") / "out"
    with quick_conversions():
        flags = ["--int8", "--gan-steps", "12", "--calib-samples", "64", "--engine", "onnxruntime"]
        result = CliRunner().invoke(command, [*MODEL, *INPUT, *flags, "-o", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def digit(tmp_path: Path) -> tuple[Path, NDArray[np.float32]]:
    """The first held-out digit as a picture, and as the network's input."""
    with np.load(DIGITS / "test.npz") as data:
        image = data["images"][0]
    Image.fromarray(image).save(tmp_path / "digit.png")
    x = ((image.astype(np.float32) / 255 - np.float32(0.305)) / np.float32(0.376))[None, None]
    return tmp_path / "digit.png", x


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a script as a user does; class -> percent, in the order in which they are printed."""

    def run(script: Path, folder: Path, image: Path) -> dict[int, float]:
        monkeypatch.setattr(sys, "argv", [str(script), str(folder), str(image)])
        runpy.run_path(str(script), run_name="__main__")
        return {int(index): float(percent) for index, percent in LINE.findall(capsys.readouterr().out)}

    return run


def likeliest(logits: NDArray[np.float32]) -> dict[int, float]:
    """The five likeliest classes and their percent, the first first."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max())
    percent = 100 * exponentials / exponentials.sum()
    return {int(index): float(percent[index]) for index in percent.argsort()[::-1][:5]}


def same(found: dict[int, float], expected: dict[int, float]) -> None:
    assert list(found) == list(expected)
    assert list(found.values()) == pytest.approx(list(expected.values()), abs=PERCENT)


# What both do


@pytest.mark.parametrize("script", [ON_CPU, ON_GPU], ids=lambda script: script.stem)
def test_scripts_need_nothing_of_this_package(script: Path) -> None:
    tree = ast.parse(script.read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)} | {
        alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    }
    tops = {str(module).partition(".")[0] for module in modules} - sys.stdlib_module_names
    assert tops <= {"numpy", "PIL", "onnxruntime", "pycuda", "tensorrt"}


def test_both_prepare_images_by_the_same_code() -> None:
    """Each is one file to copy; what they have in common must not drift apart."""

    def parts(script: Path) -> dict[str, str]:
        named = {}
        for node in ast.parse(script.read_text(encoding="utf-8")).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else node
            name = getattr(target, "name", getattr(target, "id", None))
            if name in SHARED:
                named[str(name)] = ast.unparse(node)
        return named

    assert set(parts(ON_CPU)) == set(SHARED)
    assert parts(ON_CPU) == parts(ON_GPU)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("size", "shape", "resize", "crop"),
    [
        ((8, 8), (1, 8, 8), None, None),
        ((40, 30), (3, 24, 24), 28, 24),
        ((31, 50), (3, 24, 24), 29, 24),
        ((33, 33), (1, 20, 20), 20, None),
        ((25, 24), (3, 24, 24), None, 24),
        ((40, 30), (3, 20, 36), (20, 36), None),
    ],
)
def test_input_is_the_one_that_the_conversion_measures_with(
    size: tuple[int, int],
    shape: tuple[int, int, int],
    resize: Resize | None,
    crop: int | None,
    order: ChannelOrder,
    tmp_path: Path,
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    spec = InputSpec(shape, (0.4, 0.5, 0.6)[: shape[0]], (0.2,) * shape[0], order if shape[0] == 3 else "rgb")
    report = {
        "model": {"input": plain(spec)},
        "options": {"images": {"resize": plain(resize), "crop": crop}},
    }
    ours = runpy.run_path(str(ON_CPU))["input_from_image"](tmp_path / "image.png", report)
    ((theirs, _),) = images_from_path(tmp_path, spec, resize=resize, crop=crop)
    assert (ours.dtype, ours.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-6)


def test_an_image_of_another_size_is_refused(run: Run, converted: Path, tmp_path: Path) -> None:
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    with pytest.raises(SystemExit, match="expected an image of 8x8, got 8x9"):
        run(ON_CPU, converted, tmp_path / "wide.png")


# On a CPU


def test_onnxruntime_gives_the_classes_of_the_engine(
    run: Run, converted: Path, digit: tuple[Path, NDArray[np.float32]]
) -> None:
    image, x = digit
    with OnnxRuntimeEngine(converted / "model.onnxruntime.onnx") as engine:
        (logits,) = engine.run(x)
    found = run(ON_CPU, converted, image)
    same(found, likeliest(logits))
    assert next(iter(found)) == 4  # its label


# On a GPU, by doubles


class PyCuda(ModuleType):
    """``pycuda.driver`` on the double of a GPU: asynchronous, and every call asks for a current context."""

    def __init__(self, trt: SimpleNamespace) -> None:
        super().__init__("pycuda.driver")
        self.device, self.depth, self.detached, self.ended_inside = HostDevice(), 0, False, list[str]()
        driver = self

        class Stream(HostStream):
            def __init__(self, flags: int) -> None:
                driver.needs_context()
                assert flags == 1  # non-blocking
                super().__init__(driver.device)

        def pop() -> None:
            self.ended_inside = list(trt.behaviour.ended)
            self.depth -= 1

        def retain_primary_context() -> SimpleNamespace:
            return SimpleNamespace(push=self.push, detach=lambda: setattr(self, "detached", True))

        self.Stream, self.Context = Stream, SimpleNamespace(pop=pop)
        self.Device = lambda index: SimpleNamespace(retain_primary_context=retain_primary_context)

    def init(self) -> None:
        pass

    def push(self) -> None:
        self.depth += 1

    def needs_context(self) -> None:
        assert self.depth == 1, "invalid device context"

    def pagelocked_empty(self, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        self.needs_context()
        return self.device.pinned(shape, dtype)

    def mem_alloc(self, nbytes: int) -> Any:
        self.needs_context()
        buffer = self.device.allocate(nbytes)

        class Allocation:
            free = staticmethod(buffer.free)

            def __int__(self) -> int:
                return buffer.pointer

        return Allocation()

    def memcpy_htod_async(self, dest: int, src: NDArray[Any], stream: HostStream) -> None:
        self.needs_context()
        self.device.copy_to_device(SimpleNamespace(pointer=dest), src, stream)

    def memcpy_dtoh_async(self, dest: NDArray[Any], src: int, stream: HostStream) -> None:
        self.needs_context()
        self.device.copy_to_host(dest, SimpleNamespace(pointer=src), stream)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> PyCuda:
    """Both modules where the script imports them from."""
    trt = runtime_double()
    module, package = ModuleType("tensorrt"), ModuleType("pycuda")
    vars(module).update(vars(trt), Logger=trt.ILogger, ICudaEngine=object)
    monkeypatch.setattr(trt.ILogger, "log", lambda self, severity, message: None, raising=False)
    driver = PyCuda(trt)
    package.driver = driver  # type: ignore[attr-defined]
    for name, value in (("tensorrt", module), ("pycuda", package), ("pycuda.driver", driver)):
        monkeypatch.setitem(sys.modules, name, value)
    return driver


@pytest.fixture
def with_plan(converted: Path, tmp_path: Path) -> Path:
    """A folder with the plan of the conversion's Q/DQ network."""
    folder = tmp_path / "int8"
    folder.mkdir()
    shutil.copy(converted / "report.json", folder)
    (folder / "model.tensorrt.plan").write_bytes(plan_of(onnx.load(converted / "model.int8.onnx")))
    return folder


def test_pycuda_gives_the_classes_of_the_plan(
    run: Run, cuda: PyCuda, converted: Path, with_plan: Path, digit: tuple[Path, NDArray[np.float32]]
) -> None:
    image, x = digit
    found = run(ON_GPU, with_plan, image)
    with OnnxRuntimeEngine(converted / "model.int8.onnx") as engine:
        (logits,) = engine.run(x)
    assert next(iter(found)) == 4
    assert found[4] == pytest.approx(
        likeliest(logits)[4], abs=0.5
    )  # the double lets ONNX Runtime fuse the pairs


def test_pycuda_leaves_nothing_behind(
    run: Run, cuda: PyCuda, with_plan: Path, digit: tuple[Path, NDArray[np.float32]]
) -> None:
    run(ON_GPU, with_plan, digit[0])
    assert cuda.device.leaks == 0
    assert cuda.ended_inside == ["context", "engine", "runtime"]  # before the CUDA context was let go
    assert (cuda.depth, cuda.detached) == (0, True)


def test_pycuda_says_what_is_wrong(
    run: Run, cuda: PyCuda, with_plan: Path, digit: tuple[Path, NDArray[np.float32]]
) -> None:
    plan = with_plan / "model.tensorrt.plan"
    whole = plan.read_bytes()
    plan.write_bytes(b"no plan")
    with pytest.raises(SystemExit, match=r"TensorRT 10.16.1 can't read .*model.tensorrt.plan"):
        run(ON_GPU, with_plan, digit[0])
    report = json.loads((with_plan / "report.json").read_text())
    report["model"]["input"]["shape"] = [1, 8, 9]
    (with_plan / "report.json").write_text(json.dumps(report))
    Image.new("L", (9, 8)).save(digit[0])
    plan.write_bytes(whole)
    with pytest.raises(SystemExit, match=r"the plan takes no input of \(1, 1, 8, 9\)"):
        run(ON_GPU, with_plan, digit[0])
    assert (cuda.depth, cuda.detached) == (0, True)
