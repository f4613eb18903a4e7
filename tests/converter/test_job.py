"""What is refused, or said, before the first stage that takes long."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

from calibrators.data.batches import first_inputs
from calibrators.data.images import UNKNOWN, images_from_path
from calibrators.data.input_spec import InputSpec
from calibrators.fingerprint import fingerprint, fingerprint_for_input
from calibrators.options import CalibrationOptions
from calibrators.ranges.ranges import Ranges, save_ranges
from calibrators.zscgan.guidance import Guide
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import SyntheticBatches, TrainedGenerator, save_generator
from calibrators.zscgan.successive import new_ensemble
from converter import job as module
from converter import pipeline
from converter.api import request_of
from converter.cli.convert import command
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from converter.samples import GeneratorSamples, Paired, ProceduralSamples
from converter.stages.calibration import judges
from converter.stages.sensitivity import probes
from converter.trust.task.mask import Mask
from engines.choose import EngineChoice
from engines.errors import EngineUnavailableError
from tests.converter.digits import DIGITS, INPUT, MODEL
from tests.converter.jobs import job_of
from tests.converter.load.first_layers import stem

SPEC, CPU = InputSpec((1, 8, 8), (0.305,), (0.376,)), torch.device("cpu")
BEGUN = "the work began"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def begin(*_: object, **__: object) -> None:
        raise SystemExit(BEGUN)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("converter.stages.capture.graph_from_model", begin)
    return tmp_path


def run(*flags: str | Path) -> Result:
    arguments = [*MODEL, *INPUT, "--int8", "--gan-steps", "2", *flags]
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def begun(*flags: str | Path) -> str:
    """What is said before the work begins."""
    result = run(*flags)
    assert str(result.exception) == BEGUN, result.output
    return result.output


def refused(*flags: str | Path, code: int = 1) -> str:
    """The message of a refusal before the work."""
    result = run(*flags)
    assert result.exit_code == code, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith(("error: ", "Error: "))]
    return line


def generator(path: Path, weights: str, spec: InputSpec = SPEC) -> Path:
    """An untrained generator in a file."""
    state = new_ensemble(spec, 10, ZSCGANOptions(steps=2, generators=1), torch.device("cpu"))
    return save_generator(TrainedGenerator(state.ensemble, weights, (), 0.0), path)


def weights() -> str:
    """The fingerprint of the digits' model."""
    return fingerprint(torch.load(DIGITS / "digits.pth", weights_only=True))


def images(folder: Path, count: int, size: tuple[int, int] = (8, 8)) -> Path:
    """A folder of images that all differ."""
    folder.mkdir()
    for index in range(count):
        Image.new("L", size, index).save(folder / f"{index}.png")
    return folder


def test_the_generator_is_read_with_the_model(here: Path) -> None:
    assert "was trained for another" in refused("--generator", generator(here / "a.pt", "abc"))
    other = generator(here / "b.pt", weights(), InputSpec((1, 8, 8), (0.5,), (0.376,)))
    assert "expected" in refused("--generator", other)
    assert "no such file" in refused("--generator", "none.pt")
    begun("--generator", generator(here / "c.pt", weights()))


def test_a_contradicted_normalisation_is_told_before_the_work(here: Path) -> None:
    code = "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Conv2d(3, 24, 3, padding=1, bias=False),"
    (here / "net.py").write_text(f"{code} nn.BatchNorm2d(24), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n")
    torch.save(stem(InputSpec((3, 32, 32), (0.0,), (1 / 255,))).state_dict(), here / "net.pth")
    flags = ["net.pth", "--int8", "--arch", "net.py:build", "--input-shape", "3x32x32"]
    typed = CliRunner().invoke(command, [*flags, "--preset", "imagenet"])
    assert str(typed.exception) == BEGUN, typed.output
    assert "warning: with --preset imagenet the network gets values of -2.12 to 2.64, but" in typed.output
    assert "; --preset bytes agrees with it" in typed.output
    auto = CliRunner().invoke(command, [*flags, "--preset", "auto", "--channel-order", "auto"])
    assert str(auto.exception) == BEGUN, auto.output
    assert "note: read the normalisation from the network: " in auto.output
    assert "warning" not in auto.output


@pytest.mark.slow
def test_a_cache_that_lacks_ranges_is_refused_before_the_training(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(here)
    monkeypatch.setattr(pipeline, "synthesise", lambda *_: pytest.fail(BEGUN))
    ranges = Ranges({"input": 1.0}, "entropy", 64, 0, "zscgan", fingerprint_for_input(weights(), SPEC))
    save_ranges(ranges, here / "cache.json")
    assert "the ranges belong to another model" in refused("--calibration-cache", "cache.json")


@pytest.mark.parametrize("flag", ["--calibration-cache", "--timing-cache"])
@pytest.mark.parametrize(
    ("path", "why"), [("folder", "it is a folder"), ("file/deeper/cache", "is no folder")]
)
def test_a_file_that_cannot_be_written_is_refused(
    flag: str, path: str, why: str, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "folder").mkdir()
    (here / "file").write_text("")
    recalibrate = ["--recalibrate"] if flag == "--calibration-cache" else []
    message = refused(flag, path, *recalibrate)
    assert f"expected {flag} {path}" in message
    assert why in message


def test_a_new_cache_may_be_in_a_new_folder() -> None:
    begun("--calibration-cache", "new/deeper/cache.json")


def test_gpu_memory_is_asked_for_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        assert name == "pycuda"
        raise EngineUnavailableError("PyCUDA can't be imported")

    monkeypatch.setattr(module, "choose_engine", lambda _: EngineChoice("tensorrt", "here"))
    monkeypatch.setattr(module, "open_device", missing)
    assert "PyCUDA can't be imported" in refused("--buffers", "pycuda")


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--calib-data", "--val", "--qat-data"])
def test_every_image_is_looked_at(flag: str, here: Path) -> None:
    folder = images(here / "images", 30)
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"{index}.png,1\n" for index in range(30)))
    flags = [flag, folder, *(["--qat", "--qat-steps", "1"] if flag == "--qat-data" else [])]
    begun(*flags)
    Image.new("L", (9, 8)).save(folder / "29.png")
    assert "29.png is 8x9 after --resize and --crop, the network takes 8x8" in refused(*flags)
    begun(*flags, "--crop", "8")
    (folder / "29.png").write_bytes(b"no image")
    assert "29.png can't be read as an image" in refused(*flags)


@pytest.mark.slow
def test_the_same_images_for_two_purposes_are_said(here: Path) -> None:
    said = begun("--calib-data", DIGITS / "test.npz", "--val", DIGITS / "test.npz", "--calib-samples", "100")
    assert "warning: 100 of the 100 images of --calib-data are in --val too" in said
    folder = images(here / "some", 30)
    shutil.copytree(folder, here / "others")  # the same content under other names
    (here / "others" / "labels.csv").write_text("file,label\n3.png,1\n4.png,2\n")
    said = begun("--calib-data", folder, "--val", here / "others")
    assert "warning: 2 of the 30 images of --calib-data are in --val too" in said
    said = begun("--qat", "--qat-data", folder, "--val", here / "others")
    assert "warning: 2 of the 30 images of --qat-data are in --val too" in said


def test_other_images_are_not_spoken_of(here: Path) -> None:
    some = here / "some.npz"
    np.savez(some, images=np.full((4, 8, 8), 7, np.uint8))
    assert "in --val too" not in begun("--calib-data", some, "--val", DIGITS / "test.npz")
    assert "in --val too" not in begun(
        "--calib-data", images(here / "files", 3), "--val", DIGITS / "test.npz"
    )


def test_class_folders_say_nothing_of_masks(here: Path) -> None:
    for name in ("cat", "dog"):
        (here / "val" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(here / "val" / name / "0.png")
    images = images_from_path(here / "val", SPEC, batch_size=2)
    assert job_of(val=images).true_answers == [0, 1]
    assert job_of(val=images, task=Mask(5)).true_answers is None


def learned_samples() -> GeneratorSamples:
    options = ZSCGANOptions(latent=8, width=4)
    return GeneratorSamples(TrainedGenerator(new_ensemble(SPEC, 10, options, CPU).ensemble, "", (), 0.0))


def guided_samples(spec: InputSpec = SPEC) -> GeneratorSamples:
    options = ZSCGANOptions(steps=1, latent=8, width=4)
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1000)
    network = nn.Sequential(nn.Conv2d(spec.shape[0], 4, 3), nn.BatchNorm2d(4), *head).eval()
    trained = TrainedGenerator(new_ensemble(spec, 1000, options, CPU).ensemble, "", (), 0.0)
    return GeneratorSamples(trained, Guide(network, spec, options))


@pytest.mark.parametrize(("side", "expected"), [(8, 512), (96, 512), (97, 256), (224, 256)])
@pytest.mark.parametrize("batch", [0, 2])
def test_fewer_large_samples_calibrate_where_they_are_guided(side: int, expected: int, batch: int) -> None:
    spec = InputSpec((1, side, side))
    options = ConvertOptions(ModelOptions("mine.pth"), synthesis=ZSCGANOptions(batch=batch))
    job = job_of(options=options, teacher=replace(job_of().teacher, spec=spec), batch=batch or 16)
    assert job.samples(guided_samples(spec)).num_samples == expected
    assert job.samples(ProceduralSamples(spec, CPU)).num_samples == 512
    few = replace(options, calibration=CalibrationOptions(samples=10))
    assert replace(job, options=few).samples(guided_samples(spec)).num_samples == 10
    asked = replace(options, asked_samples=400, calibration=CalibrationOptions(samples=400))
    assert replace(job, options=asked).samples(guided_samples(spec)).num_samples == 400


@pytest.mark.parametrize(("flags", "asked"), [([], None), (["--calib-samples", "512"], 512)])
def test_the_command_line_knows_how_many_samples_were_asked_for(flags: list[str], asked: int | None) -> None:
    options, _ = request_of(["m.pth", "--int8", *flags])
    assert options.asked_samples == asked
    assert options.calibration.samples == 512


def test_choices_are_made_on_fresh_samples_unless_these_would_be_guided() -> None:
    job = job_of()
    for source, fresh in ((ProceduralSamples(SPEC, CPU), True), (guided_samples(), False)):
        chosen_on = job.choosing_samples(source, 20)
        assert chosen_on.num_samples == 20
        calibrating = first_inputs(job.samples(source), 20)
        assert torch.equal(first_inputs(chosen_on, 20), calibrating) != fresh


@pytest.mark.parametrize("count", [1, 2, 7, 100])
def test_procedural_images_are_counted(count: int) -> None:
    job = job_of(batch=4, teacher=replace(job_of().teacher, bn_layers=1))
    asked = replace(job.options, asked_samples=count, calibration=CalibrationOptions(samples=count))
    labels = torch.cat([y for _, y in replace(job, options=asked).calibration_data(learned_samples())])
    assert len(labels) == count
    assert int((labels == UNKNOWN).sum()) == job.procedural_among(count)


@pytest.mark.parametrize(("side", "generated"), [(8, 256), (224, 128)])
def test_half_of_what_calibrates_is_procedural(side: int, generated: int) -> None:
    spec = InputSpec((1, side, side))
    job = job_of(batch=64, teacher=replace(job_of().teacher, spec=spec, bn_layers=1))
    source = guided_samples(spec)
    data = job.calibration_data(source)
    assert isinstance(data, Paired)
    assert data.first.num_samples == data.second.num_samples == generated
    assert job.procedural_among(data.num_samples) == generated
    assert torch.equal(first_inputs(data.first, 8), first_inputs(job.samples(source), 8))
    assert {len(x) for x, _ in data} == {2 * job.batch}
    alone = replace(job, options=replace(job.options, sample_source="zscgan"))
    assert alone.calibration_data(source).num_samples == data.num_samples
    assert isinstance(alone.calibration_data(source), SyntheticBatches)
    assert alone.procedural_among(data.num_samples) == 0


def test_choices_guide_no_sample_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    job, source, guided = job_of(batch=16), guided_samples(), []
    usual = Guide.__call__

    def counting(self: Guide, x: torch.Tensor, choices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        guided.append(len(x))
        return usual(self, x, choices)

    monkeypatch.setattr(Guide, "__call__", counting)
    for _ in job.samples(source):
        pass
    assert sum(guided) == 512
    assert len(judges(job, source)) == 128
    probed = probes(job, source)
    assert probed is not None
    assert len(probed) == 64
    assert sum(guided) == 512
