"""The calibrators driven by a double of TensorRT's calibration; the double's bases stand for TensorRT's."""

import runpy
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from calibrators.data.batches import TensorBatches
from calibrators.data.images import images_from_path
from calibrators.data.input_spec import InputSpec
from calibrators.errors import CacheError, CalibrationError, GeneratorError
from calibrators.fingerprint import fingerprint, fingerprint_for_input
from calibrators.ranges.cache_file import cache_from_text, ranges_from_cache, save_cache
from calibrators.ranges.ranges import load_ranges, save_ranges
from calibrators.tensorrt.cache_with_json import CacheHeader, save_pair
from calibrators.zscgan.options import ZSCGANOptions
from tests.tensorrt_double.builder import plan_header, tensorrt_double
from tests.tensorrt_double.calibration import (
    Calibration,
    DoubleError,
    HostMemory,
    IInt8EntropyCalibrator2,
    IInt8MinMaxCalibrator,
    calibrate_in,
    fake_module,
)
from tests.tensorrt_double.machine import calibrators_imported_anew, calibrators_imported_with

EXAMPLE = Path(__file__).parents[3] / "examples" / "tensorrt_calibrator.py"
SPEC = InputSpec((3, 8, 8), (0.5,), (0.25,))
FEW = ZSCGANOptions(steps=2, batch=8)


class Classifier(nn.Sequential):
    def __init__(self, classes: int = 4) -> None:
        super().__init__(
            nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
            nn.Linear(6, classes),
        )  # fmt: skip


class Broken(TensorBatches):
    """Raises ``error`` after ``good`` batches."""

    error: BaseException = OSError("the disk is gone")
    good = 2

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for number, batch in enumerate(super().__iter__()):
            if number == self.good:
                raise self.error
            yield batch


def samples(count: int = 20, size: int = 4, **kind: Any) -> TensorBatches:
    random = torch.Generator().manual_seed(1)
    cls = kind.pop("cls", TensorBatches)
    batches: TensorBatches = cls(torch.randn(count, 3, 8, 8, generator=random), torch.arange(count), size)
    return batches


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``calibrators.tensorrt.calibrator`` on TensorRT 10.16.1."""
    return calibrators_imported_with(monkeypatch, fake_module())


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Classifier()


class Bench:
    """Makes calibrators and calibrates with them."""

    def __init__(self, module: Any, folder: Path) -> None:
        self.module, self.cache, self.memory = module, folder / "model.cache", HostMemory()
        self.json = self.cache.with_suffix(".json")

    def entropy(self, **arguments: Any) -> Any:
        return self._made("ZSCGANEntropyCalibrator", arguments)

    def minmax(self, **arguments: Any) -> Any:
        return self._made("ZSCGANMinMaxCalibrator", arguments)

    def _made(self, name: str, arguments: dict[str, Any]) -> Any:
        defaults = {"batches": samples(), "batch_size": 4, "fingerprint": "f" * 64, "cache": self.cache}
        arguments = defaults | {"memory": self.memory} | arguments
        return getattr(self.module, name)(arguments.pop("model", None), SPEC, **arguments)

    def calibrate(self, calibrator: Any, **settings: Any) -> Calibration:
        calibration = Calibration(self.memory, **settings)
        calibration.run(calibrator)
        return calibration


@pytest.fixture
def bench(module: Any, tmp_path: Path) -> Bench:
    return Bench(module, tmp_path)


# --- the normal way


def test_they_are_tensorrts_own_calibrators(bench: Bench) -> None:
    assert isinstance(bench.entropy(), IInt8EntropyCalibrator2)
    assert isinstance(bench.minmax(), IInt8MinMaxCalibrator)


@pytest.mark.slow
def test_the_gpus_memory_is_free_for_the_build(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once the data is there, and again when TensorRT has had the last of it."""
    happened: list[str] = []
    monkeypatch.setattr("torch.cuda.is_initialized", lambda: True)
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: happened.append("emptied"))
    with bench.entropy(on_progress=lambda *call: happened.append("batch")) as calibrator:
        happened.append("made")
        bench.calibrate(calibrator)
    assert happened == ["emptied", "made", *["batch"] * 5, "emptied"]


def test_tensorrt_sees_every_batch_and_the_cache_is_written(bench: Bench) -> None:
    calls: list[tuple[str, int, int]] = []
    with bench.entropy(on_progress=lambda *call: calls.append(call)) as calibrator:
        calibration = bench.calibrate(calibrator)
    assert torch.equal(torch.from_numpy(np.concatenate(calibration.batches)), samples().x)
    assert calls == [("calibration", step, 5) for step in range(1, 6)]
    assert not calibration.cached
    cache = cache_from_text(bench.cache.read_text())
    assert (cache.version, cache.calibrator) == (101601, "EntropyCalibration2")
    assert cache.scales == pytest.approx(calibration.scales)
    assert calibrator.cache_text == bench.cache.read_bytes()
    ranges = load_ranges(bench.json, fingerprint="f" * 64, algorithm="entropy")
    assert calibrator.ranges == ranges == ranges_from_cache(bench.cache, fingerprint="f" * 64)
    assert (ranges.samples, ranges.seed, ranges.source) == (20, None, "images")


def test_min_max_by_hand(bench: Bench) -> None:
    x = torch.zeros(4, 3, 8, 8)
    x[1, 2, 3, 4], x[3, 0, 0, 0] = -254.0, 127.0
    with bench.minmax(batches=TensorBatches(x, torch.zeros(4, dtype=torch.int64))) as calibrator:
        bench.calibrate(calibrator)
    assert bench.cache.read_text() == "TRT-101601-MinMaxCalibration\ninput: 40000000\nrelu: 3f800000\n"
    assert calibrator.ranges.amax == {"input": 254.0, "relu": 127.0}
    assert calibrator.ranges.algorithm == "max"


def test_a_generator_is_trained_and_the_model_left_alone(bench: Bench, model: nn.Module) -> None:
    before, calls = fingerprint(model.state_dict()), []
    calibrator = bench.entropy(
        model=model, batches=None, fingerprint=None, samples=16, options=FEW,
        on_progress=lambda *call: calls.append(call),
    )  # fmt: skip
    assert calls == [("synthesis", 1, 2), ("synthesis", 2, 2)]
    assert calibrator.batch_shape == (4, 3, 8, 8)
    with calibrator:
        calibration = bench.calibrate(calibrator)
    drawn = np.concatenate(calibration.batches)
    assert drawn.shape == (16, 3, 8, 8)
    assert (drawn.min() >= min(SPEC.low), drawn.max() <= max(SPEC.high), drawn.std() > 0.01) == (True,) * 3
    assert (fingerprint(model.state_dict()), model.training) == (before, True)
    assert all(parameter.requires_grad for parameter in model.parameters())
    ranges = load_ranges(bench.json)
    assert (ranges.samples, ranges.seed, ranges.source) == (16, 0, "zscgan")
    assert ranges.fingerprint == fingerprint_for_input(before, SPEC)
    again = bench.entropy(model=model, batches=None, fingerprint=None, options=FEW, on_progress=calls.append)
    assert bench.calibrate(again).cached
    assert len(calls) == 6  # two steps and four batches: nothing was trained or handed over again


def test_the_same_seed_gives_the_same_cache(bench: Bench, model: nn.Module, tmp_path: Path) -> None:
    paths = [tmp_path / "a.cache", tmp_path / "b.cache"]
    for path in paths:
        calibrator = bench.entropy(model=model, batches=None, samples=8, options=FEW, cache=path, classes=4)
        bench.calibrate(calibrator)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_real_images(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number}.png")
    images = images_from_path(folder, SPEC, batch_size=5)
    with bench.entropy(batches=images) as calibrator:
        calibration = bench.calibrate(calibrator)
    expected = torch.cat([x for x, _ in images])
    assert calibrator.batch_shape == (3, 3, 8, 8)
    assert torch.equal(torch.from_numpy(np.concatenate(calibration.batches)), expected)
    assert calibrator.ranges.source == "images"


def test_without_a_path_the_result_stays_in_memory(bench: Bench, tmp_path: Path) -> None:
    with bench.entropy(cache=None, fingerprint=None) as calibrator:
        bench.calibrate(calibrator)
        assert list(tmp_path.iterdir()) == []
        assert calibrator.cache_text.startswith(b"TRT-101601-EntropyCalibration2\n")
        assert calibrator.ranges.fingerprint is None
        assert bench.calibrate(calibrator).cached  # a second build of the same calibrator


def test_the_buffer_lives_until_the_end(bench: Bench) -> None:
    with bench.entropy() as calibrator:
        bench.calibrate(calibrator)
        assert calibrator.get_batch(["input"]) == []
        assert list(bench.memory.live.values()) == [4 * 3 * 8 * 8 * 4]
    assert (bench.memory.live, len(bench.memory.buffers)) == ({}, 1)
    assert calibrator.get_batch(["input"]) == []
    calibrator.close()


def test_the_double_sees_what_tensorrt_would_crash_on(bench: Bench) -> None:
    with pytest.raises(DoubleError, match="out of bounds"):
        bench.calibrate(bench.entropy(batch_size=4), shape=(5, 3, 8, 8))
    calibrator = bench.entropy()
    pointer = calibrator.get_batch(["input"])[0]
    calibrator.close()
    with pytest.raises(DoubleError, match="freed"):
        bench.memory.read(pointer, (1, 3, 8, 8))


def test_samples_limits_the_data(bench: Bench) -> None:
    with bench.entropy(samples=7) as calibrator:
        assert calibrator.get_batch_size() == 3
        assert len(bench.calibrate(calibrator).batches) == 2
    assert calibrator.ranges.samples == 6


# --- the cache


@pytest.fixture
def written(bench: Bench) -> bytes:
    """A cache and its JSON, as a calibrator wrote them."""
    with bench.entropy() as calibrator:
        bench.calibrate(calibrator)
    return bench.cache.read_bytes()


@pytest.mark.usefixtures("written")
def test_a_cache_hit_needs_neither_data_nor_device(bench: Bench) -> None:
    before = bench.cache.stat().st_mtime_ns, bench.memory.uploads
    with bench.entropy(batches=None, memory=None) as calibrator:
        calibration = bench.calibrate(calibrator)
    assert (calibration.cached, calibration.batches) == (True, [])
    assert calibration.scales == pytest.approx(cache_from_text(bench.cache.read_text()).scales)
    assert calibrator.ranges == load_ranges(bench.json)
    assert (bench.cache.stat().st_mtime_ns, bench.memory.uploads) == before


@pytest.mark.usefixtures("written")
def test_a_cache_that_tensorrt_refuses_is_an_error(bench: Bench) -> None:
    with (
        pytest.raises(CacheError, match=r"TensorRT asked for data.*recalibrate=True"),
        bench.entropy(batches=None, memory=None) as calibrator,
    ):
        assert bench.calibrate(calibrator, header="TRT-101602-EntropyCalibration2").scales is None


def test_recalibrate_replaces_it(bench: Bench, written: bytes) -> None:
    doubled = TensorBatches(samples().x * 2, samples().y, 4)
    with bench.entropy(batches=doubled, recalibrate=True) as calibrator:
        assert not bench.calibrate(calibrator).cached
    scales = cache_from_text(written.decode()).scales
    assert load_ranges(bench.json).amax == pytest.approx({n: 2 * 127 * s for n, s in scales.items()})


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda b: b.json.unlink(), r"expected model\.json beside .*recalibrate=True"),
        (lambda b: b.json.write_text('{"mine": 1}'), r"expected model\.json beside"),
        (lambda b: b.json.write_text("{"), "broken"),
        (lambda b: b.cache.write_bytes(b""), "is empty"),
        (lambda b: b.cache.write_bytes(b.cache.read_bytes()[:-3]), "8 hexadecimal digits"),
        (lambda b: b.cache.write_bytes(b.cache.read_bytes().replace(b": 3", b": 4")), "they differ"),
        (
            lambda b: b.cache.write_bytes(b.cache.read_bytes().replace(b"101601", b"100300")),
            "begin with TRT-101601-EntropyCalibration2.*got TRT-100300-EntropyCalibration2",
        ),
        (
            lambda b: b.cache.write_bytes(b.cache.read_bytes().replace(b"EntropyCalibration2", b"MinMaxCalibration")),
            "got TRT-101601-MinMaxCalibration",
        ),
        (lambda b: save_ranges(replace(load_ranges(b.json), fingerprint="0" * 64), b.json), "ranges for others"),
        (lambda b: save_ranges(replace(load_ranges(b.json), fingerprint=None), b.json), "ranges for others"),
        (lambda b: save_ranges(replace(load_ranges(b.json), algorithm="mse"), b.json), "entropy, got mse"),
        (lambda b: save_ranges(replace(load_ranges(b.json), source="zscgan"), b.json), "got zscgan"),
    ],
)  # fmt: skip
def test_a_cache_of_something_else_is_refused(bench: Bench, spoil: Any, match: str) -> None:
    spoil(bench)
    before = bench.cache.read_bytes()
    with pytest.raises(CacheError, match=match) as caught:
        bench.entropy()
    assert "recalibrate=True" in str(caught.value)
    assert bench.cache.read_bytes() == before


@pytest.mark.usefixtures("written")
def test_the_other_calibrator_refuses_it(bench: Bench) -> None:
    with pytest.raises(CacheError, match="got entropy"):
        bench.minmax()


@pytest.mark.usefixtures("written")
def test_another_model_or_input_refuses_it(bench: Bench, model: nn.Module) -> None:
    with pytest.raises(CacheError, match="ranges for others"):
        bench.entropy(model=model, fingerprint=None)


def test_a_cache_of_our_own_calibration_is_taken(bench: Bench, written: bytes) -> None:
    ranges = load_ranges(bench.json)
    save_cache(ranges, bench.cache, version=101601)  # as the converter writes it
    assert bench.calibrate(bench.entropy()).cached
    assert bench.cache.read_bytes() == written


def test_foreign_files_are_not_overwritten(bench: Bench, tmp_path: Path) -> None:
    bench.json.write_text('{"mine": 1}')
    for recalibrate in (False, True):
        with pytest.raises(CacheError, match="would be overwritten"):
            bench.entropy(recalibrate=recalibrate)
    with pytest.raises(CacheError, match=r"expected the path of a cache, got .*other\.json"):
        bench.entropy(cache=tmp_path / "other.json")


def test_a_stop_between_the_two_files_leaves_no_pair_that_is_trusted(
    bench: Bench, written: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = load_ranges(bench.json)
    new = replace(old, amax={name: amax / 3 for name, amax in old.amax.items()})

    def stopped(path: Path, data: bytes) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("calibrators.tensorrt.cache_with_json.write_atomic", stopped)
    with pytest.raises(CacheError, match="No space left on device"):
        save_pair(new, written, bench.cache)
    assert bench.cache.read_bytes() == written
    with pytest.raises(CacheError, match="they differ"):
        bench.entropy()
    bench.cache.unlink()
    assert bench.entropy().ranges is None  # calibrates


def test_a_folder_that_refuses_writing(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    calibrator = bench.entropy(cache=tmp_path / "file" / "model.cache")
    calibration = bench.calibrate(calibrator)
    assert calibration.scales is not None
    assert calibrator.ranges.amax == pytest.approx({n: 127 * s for n, s in calibration.scales.items()})
    assert calibrator.cache_text.startswith(b"TRT-101601")
    with pytest.raises(CacheError, match=r"expected to write .* another path"):
        calibrator.raise_error()


@pytest.mark.parametrize(
    ("scale", "got"), [(0.0, "got 0.0"), (float("inf"), "got inf"), (float("nan"), "got nan")]
)
def test_a_broken_scale_from_tensorrt(bench: Bench, scale: float, got: str) -> None:
    calibrator = bench.entropy()
    bench.calibrate(calibrator, forced={"relu": scale})
    with pytest.raises(CacheError, match=f"'relu' on line 3 of TensorRT's calibration, {got}.*more or other"):
        calibrator.raise_error()
    assert (bench.cache.exists(), bench.json.exists(), calibrator.ranges) == (False, False, None)


@pytest.mark.parametrize("header", ["TRT-101501-EntropyCalibration2", "TRT-101601-MinMaxCalibration"])
def test_another_header_from_tensorrt(bench: Bench, header: str) -> None:
    calibrator = bench.entropy()
    bench.calibrate(calibrator, header=header)
    with pytest.raises(CacheError, match=f"begin with TRT-101601-EntropyCalibration2.*got {header}"):
        calibrator.raise_error()
    assert not bench.cache.exists()


def test_a_result_that_is_no_text(bench: Bench) -> None:
    calibrator = bench.entropy()
    calibrator.get_batch(["input"])
    with pytest.raises(CacheError, match="to be text"):
        calibrator.write_calibration_cache(memoryview(b"TRT\xff\xfe"))


def test_a_result_without_any_data(bench: Bench) -> None:
    calibrator = bench.entropy()
    text = b"TRT-101601-EntropyCalibration2\ninput: 3f800000\n"
    with pytest.raises(CalibrationError, match="without any"):
        calibrator.write_calibration_cache(memoryview(text))
    assert not bench.cache.exists()


# --- exceptions in callbacks


def assert_cut_off(bench: Bench, calibrator: Any, kind: type[BaseException], match: str) -> None:
    """The exception is kept, TensorRT gets nothing more, and nothing was written."""
    with pytest.raises(kind, match=match):
        calibrator.raise_error()
    uploads = bench.memory.uploads
    assert (calibrator.get_batch(["input"]), calibrator.read_calibration_cache()) == ([], None)
    text = b"TRT-101601-EntropyCalibration2\ninput: 3f800000\n"
    calibrator.write_calibration_cache(memoryview(text))
    assert (bench.cache.exists(), bench.json.exists(), calibrator.ranges) == (False, False, None)
    assert bench.memory.uploads == uploads


def with_value(at: int, value: float) -> TensorBatches:
    batches = samples()
    batches.x[at, 1, 2, 3] = value
    return batches


@pytest.mark.parametrize(
    ("batches", "kind", "match", "handed_over"),
    [
        (samples(cls=Broken), OSError, "the disk is gone", 2),
        (with_value(9, float("nan")), CalibrationError, "calibration batch 2.*NaN", 2),
        (with_value(0, float("-inf")), CalibrationError, "calibration batch 0.*infinite", 0),
        (replace(samples(), x=samples().x.double() * 1e300), CalibrationError, "infinite", 0),
        (replace(samples(), x=torch.zeros(20, 3, 8, 9)), CalibrationError, r"\(samples, 3, 8, 8\), got .*3, 8, 9\)", 0),
        (replace(samples(), x=torch.zeros(20, 1, 8, 8)), CalibrationError, "give the InputSpec", 0),
    ],
)  # fmt: skip
def test_an_exception_ends_the_calibration(
    bench: Bench,
    capfd: pytest.CaptureFixture[str],
    batches: Any,
    kind: type[BaseException],
    match: str,
    handed_over: int,
) -> None:
    calibrator = bench.entropy(batches=batches)
    calibration = bench.calibrate(calibrator)
    assert len(calibration.batches) == handed_over
    assert "[ERROR] Exception caught in get_batch()" in capfd.readouterr().err
    assert_cut_off(bench, calibrator, kind, match)


def test_ctrl_c_is_kept_too(bench: Bench) -> None:
    broken = samples(cls=Broken)
    object.__setattr__(broken, "error", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt), bench.entropy(batches=broken) as calibrator:
        bench.calibrate(calibrator)
    assert not bench.cache.exists()


class Shrunk(TensorBatches):
    """Says that it has more samples than it gives."""

    @property
    def num_samples(self) -> int:
        return len(self.x) + 8


def test_batches_that_end_early(bench: Bench) -> None:
    calibrator = bench.entropy(batches=samples(cls=Shrunk))
    assert len(bench.calibrate(calibrator).batches) == 5
    assert_cut_off(bench, calibrator, CalibrationError, "expected 28 samples, got 20")


@pytest.mark.parametrize(
    ("given", "names", "match"),
    [
        (None, ["a", "b"], "with one input, got a, b"),
        (None, [], "got none"),
        ("image", ["input"], "one input 'image', got input"),
        ("image", ["image", "mask"], "got image, mask"),
    ],
)
def test_other_inputs_are_refused(bench: Bench, given: str | None, names: list[str], match: str) -> None:
    calibrator = bench.entropy(input_name=given)
    assert bench.calibrate(calibrator, names=names).batches == []
    assert_cut_off(bench, calibrator, CalibrationError, match)


def test_the_right_name_is_accepted(bench: Bench) -> None:
    with bench.entropy(input_name="input") as calibrator:
        assert len(bench.calibrate(calibrator).batches) == 5


def test_progress_may_stop_it(bench: Bench) -> None:
    def stop(_phase: str, step: int, _steps: int) -> None:
        if step == 3:
            raise RuntimeError("enough")

    calibrator = bench.entropy(on_progress=stop)
    assert len(bench.calibrate(calibrator).batches) == 2
    assert_cut_off(bench, calibrator, RuntimeError, "enough")


def test_an_error_of_the_block_comes_first(bench: Bench) -> None:
    with pytest.raises(ZeroDivisionError), bench.entropy(batches=samples(cls=Broken)) as calibrator:
        bench.calibrate(calibrator)
        raise ZeroDivisionError
    assert bench.memory.live == {}


# --- what can fail before


def test_no_data(bench: Bench) -> None:
    with pytest.raises(CalibrationError, match="batches without samples"):
        bench.entropy(batches=samples(0))
    with pytest.raises(CalibrationError, match="model to make samples for, or batches="):
        bench.entropy(batches=None)
    with pytest.raises(CalibrationError, match="to tell whose cache it is"):
        bench.entropy(fingerprint=None)
    with pytest.raises(ValueError, match="1 or more"):
        bench.entropy(batch_size=0)


def test_no_gpu(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(CalibrationError, match="expected a CUDA GPU"):
        bench.entropy(memory=None)


def test_a_model_without_batch_norm(bench: Bench) -> None:
    with pytest.raises(GeneratorError, match=r"give real images instead: batches="):
        bench.entropy(model=nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()), batches=None)


class Twice(Classifier):
    def forward(self, x: Tensor) -> Any:
        return x, x


@pytest.mark.parametrize(
    ("wrong", "match"),
    [(Twice(), "got tuple"), (nn.Sequential(*list(Classifier())[:3]), r"got shape \(2, 6, 8, 8\)")],
)
def test_a_model_that_is_no_classifier(bench: Bench, wrong: nn.Module, match: str) -> None:
    with pytest.raises(CalibrationError, match=match):
        bench.entropy(model=wrong, batches=None, options=FEW)


@pytest.mark.parametrize(
    ("version", "number"), [("10.16.1.11", 101601), ("10.3.0", 100300), ("10.14.1.48.post1", 101401)]
)
def test_version_number(module: Any, version: str, number: int) -> None:
    assert module.version_number(version) == number


@pytest.mark.parametrize("version", ["8.6.1", "9.2.0.post12", "unknown"])
def test_other_versions_are_refused(module: Any, version: str) -> None:
    with pytest.raises(CalibrationError, match=f"expected TensorRT 10, got {version}"):
        module.version_number(version)


def test_header_text() -> None:
    assert str(CacheHeader("MinMaxCalibration", 100300)) == "TRT-100300-MinMaxCalibration"


# --- without TensorRT 10


def assert_unavailable(module: Any, match: str) -> None:
    for name in ("ZSCGANEntropyCalibrator", "ZSCGANMinMaxCalibrator"):
        with pytest.raises(CalibrationError, match=match):
            getattr(module, name)(None, SPEC, batches=samples())


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    module = calibrators_imported_with(monkeypatch, None)
    assert_unavailable(
        module, r'isn\'t installed; type pip install "zscgan-convert\[tensorrt\]" "tensorrt<11"'
    )


def test_tensorrt_11_has_no_calibrators(monkeypatch: pytest.MonkeyPatch) -> None:
    module = calibrators_imported_with(monkeypatch, fake_module("11.0.0"))
    assert_unavailable(module, r"TensorRT 11\.0\.0 has no INT8 calibrators.*Q/DQ.*tensorrt<11")


def test_a_folder_of_stubs_is_no_tensorrt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.pyi").write_text("class Builder: ...\n")
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    module = calibrators_imported_anew(monkeypatch)
    sys.modules.pop("tensorrt", None)
    assert_unavailable(module, "isn't installed")


@pytest.mark.parametrize(
    "code",
    ["import no_such_tensorrt_libs", "raise OSError('libnvinfer.so.10: cannot open shared object file')"],
)
def test_bindings_without_their_libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> None:
    (tmp_path / "tensorrt.py").write_text(code)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert_unavailable(
        calibrators_imported_anew(monkeypatch), r"can't be loaded \(.*(libnvinfer|no_such_tensorrt_libs)"
    )


# --- the example


@pytest.mark.slow
def test_the_example_builds_a_plan(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As it stands in the repository, on a smaller network, a shorter training and the doubles."""
    memory = HostMemory()
    double = tensorrt_double("10.16.1")
    double.calibrate = calibrate_in(memory)
    double.Logger = type("Logger", (double.ILogger,), {"log": lambda self, severity, msg: None})
    bases = fake_module("10.16.1")
    monkeypatch.setitem(sys.modules, "tensorrt", fake_module("10.16.1", **{**vars(double), **public(bases)}))
    calibrator = partial(
        calibrators_imported_anew(monkeypatch).ZSCGANEntropyCalibrator,
        options=ZSCGANOptions(steps=1, batch=2, width=4), samples=4, batch_size=2, memory=memory,
    )  # fmt: skip
    monkeypatch.setattr("calibrators.tensorrt.ZSCGANEntropyCalibrator", calibrator)
    monkeypatch.setattr("torchvision.models.resnet18", lambda weights: Classifier())
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter
        runpy.run_path(str(EXAMPLE))
    header = plan_header(tmp_path / "resnet18.plan")
    assert (header["flags"], header["calibrated"], memory.uploads) == (["INT8"], True, 2)
    assert header["calibration_profile"] == {"input": [[1, 3, 224, 224], [2, 3, 224, 224], [2, 3, 224, 224]]}
    assert (tmp_path / "resnet18.cache").read_text().startswith("TRT-101601-EntropyCalibration2\ninput: ")
    assert memory.live == {}


def public(module: ModuleType) -> dict[str, Any]:
    """The names of TensorRT's calibrators in it."""
    return {name: value for name, value in vars(module).items() if name.startswith("IInt8")}
