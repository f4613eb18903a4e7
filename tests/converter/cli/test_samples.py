"""``zscgan-samples`` as a user types it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper
from torch import nn

from calibrators.data.images import images_from_path
from calibrators.data.input_spec import InputSpec
from converter.cli.convert import command as convert
from converter.cli.samples import command
from converter.load.model import load_model
from tests.converter.digits import INPUT, MODEL
from zscgan_common.warning_message import WarningMessage

SHORT = ["--gan-steps", "12"]
SPEC = InputSpec((1, 8, 8), (0.305,), (0.376,))


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments), "-q"])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of samples with its report."""
    output = tmp_path_factory.mktemp("samples") / "calib.npz"
    result = run(*MODEL, *INPUT, *SHORT, "-n", "40", "--report", "-o", output)
    assert result.exit_code == 0, result.output
    return output


def test_an_archive_with_its_report(made: Path) -> None:
    assert sorted(path.name for path in made.parent.iterdir()) == [
        "calib.generator.pt", "calib.npz", "calib.samples.json", "calib.samples.png",
    ]  # fmt: skip
    report = json.loads(made.with_name("calib.samples.json").read_text())
    assert (report["model"], report["source"], report["samples"]) == ("digits", "generator", 40)
    assert report["input_shape"] == [1, 8, 8]
    assert report["steps"] == 12
    assert 0 < report["bn_kl"] < 1
    assert 0 <= report["label_accuracy"] <= 100
    assert images_from_path(made, SPEC).num_samples == 40


def test_samples_of_a_short_training_are_guided(tmp_path: Path) -> None:
    output = tmp_path / "calib.npz"
    result = run(*MODEL, *INPUT, *SHORT, "--gan-steps", "2", "-n", "40", "--report", "-o", output)
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "calib.samples.json").read_text())["guide_steps"] == 4


def test_its_samples_are_those_of_a_conversion(made: Path, tmp_path: Path) -> None:
    """The generator serves zscgan-convert, and its first samples are the same."""
    generator = made.with_name("calib.generator.pt")
    images = {}
    for kind, count in (("auto", 40), ("zscgan", 20), ("procedural", 20)):
        flags = () if kind == "procedural" else ("--generator", generator)
        output = tmp_path / f"{kind}.npz"
        result = run(*MODEL, *INPUT, "--samples", kind, "-n", count, *flags, "--normalised", "-o", output)
        assert result.exit_code == 0, result.output
        with np.load(output) as archive:
            pixels = np.rint((archive["input"] * 0.376 + 0.305) * 255).transpose(0, 2, 3, 1)
            images[kind] = pixels.astype(np.uint8)
    assert np.array_equal(images["auto"], np.concatenate([images["zscgan"], images["procedural"]]))
    with np.load(made) as before:
        assert np.array_equal(images["zscgan"], before["images"][:20])


def test_samples_with_procedural_images_have_no_labels(made: Path, tmp_path: Path) -> None:
    generator = made.with_name("calib.generator.pt")
    asked = [*MODEL, *INPUT, "--samples", "both", "--generator", generator, "-n", "40"]
    assert run(*asked, "-o", tmp_path / "c.npz").exit_code == 0
    with np.load(tmp_path / "c.npz") as archive, np.load(made) as before:
        assert archive.files == ["images"]
        assert np.array_equal(archive["images"][:20], before["images"][:20])
    refused = run(*asked, "--class-folders", "-o", tmp_path / "c")
    assert refused.exit_code == 2
    assert "--class-folders require samples with labels, but half of these have none" in refused.output


def test_a_folder_calibrates_a_conversion(made: Path, tmp_path: Path) -> None:
    generator = made.with_name("calib.generator.pt")
    folder = tmp_path / "calib"
    result = run(*MODEL, *INPUT, "-n", "30", "--generator", generator, "--class-folders", "-o", folder)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["data.yaml", "images", "labels", "labels.csv"]
    flags = ["--int8", "--calib-data", folder / "images", "--engine", "onnxruntime", "-o", tmp_path / "out"]
    converted = CliRunner().invoke(convert, [*MODEL, *INPUT, *map(str, flags)])
    assert converted.exit_code == 0, converted.output


def test_an_output_that_exists_is_kept_unless_told(made: Path, tmp_path: Path) -> None:
    quick = [*MODEL, *INPUT, "--samples", "procedural", "-n", "4"]
    folder = tmp_path / "calib"
    assert run(*quick, "-o", folder).exit_code == 0
    before = (folder / "images" / "0.png").read_bytes()
    result = run(*quick, "--seed", "1", "-o", folder)
    assert result.exit_code == 1
    assert "exists; add --overwrite" in result.output
    assert (folder / "images" / "0.png").read_bytes() == before
    assert run(*quick, "--seed", "1", "--overwrite", "-o", folder).exit_code == 0
    assert (folder / "images" / "0.png").read_bytes() != before
    (folder / "notes.txt").touch()
    result = run(*quick, "--overwrite", "-o", folder)
    assert result.exit_code == 1
    assert "holds notes.txt, which is no part of samples" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["calib"]


def network_without_batch_norm(path: Path, channels: int = 3) -> Path:
    """An ONNX file whose input is called pixels."""
    weight = numpy_helper.from_array(np.ones((2, channels, 3, 3), np.float32), "w")
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixels", "w"], ["maps"]),
            helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ],
        "g",
        [helper.make_tensor_value_info("pixels", onnx.TensorProto.FLOAT, ["n", channels, 12, 12])],
        [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["n", 2])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def test_an_onnx_file_has_its_inputs_name_and_procedural_images(tmp_path: Path) -> None:
    model = network_without_batch_norm(tmp_path / "m.onnx")
    result = run(model, "--preset", "unit", "-n", "3", "--normalised", "--report", "-o", tmp_path / "c.npz")
    assert result.exit_code == 0, result.output
    with np.load(tmp_path / "c.npz") as archive:
        assert (archive.files, archive["pixels"].shape) == (["pixels"], (3, 3, 12, 12))
    report = json.loads((tmp_path / "c.samples.json").read_text())
    assert (report["source"], report["bn_kl"], report["label_accuracy"]) == ("procedural", None, None)
    named = run(
        model, "--preset", "unit", "-n", "3", "--normalised", "--input-name", "x", "-o", tmp_path / "d.npz"
    )
    assert named.exit_code == 0, named.output
    with np.load(tmp_path / "d.npz") as archive:
        assert archive.files == ["x"]


def test_a_generator_needs_batch_norms(tmp_path: Path) -> None:
    model = network_without_batch_norm(tmp_path / "m.onnx")
    result = run(model, "--preset", "unit", "--samples", "zscgan", "-o", tmp_path / "c.npz")
    assert result.exit_code == 1
    assert "no batch norm with running statistics" in result.output


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["-o", "c.npz", "-n", "0"], "expected -n of at least 1, got 0"),
        (["-o", "c.png"], "expected -o FILE.npz or -o DIR, got -o c.png"),
        (["-o", "calib", "--normalised"], "expected -o FILE.npz, got -o calib"),
        (["-o", "c.npz", "--class-folders"], "expected -o DIR, got -o c.npz"),
        (["-o", "c.npz", "--input-name", "x"], "--input-name names the array of --normalised"),
        (
            ["-o", "calib", "--class-folders", "--samples", "procedural"],
            "--class-folders require samples with labels",
        ),
        (["-o", "c.npz", "--samples", "procedural", "--generator", "g.pt"], "uses no generator"),
    ],
)
def test_contradictions_are_refused_and_leave_nothing(
    flags: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*MODEL, *INPUT, *flags)
    assert result.exit_code == 2, result.output
    assert words in result.output
    assert list(tmp_path.iterdir()) == []


def test_classes_without_samples_are_said(made: Path, tmp_path: Path) -> None:
    generator = made.with_name("calib.generator.pt")
    result = run(*MODEL, *INPUT, "-n", "4", "--generator", generator, "-o", tmp_path / "c.npz")
    assert result.exit_code == 0
    assert "4 samples are of 4 of the 10 classes" in result.output


def test_what_the_network_contradicts_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a conversion does: samples of a wrong normalisation calibrate nothing well."""
    warning = WarningMessage("normalisation-contradicted", "the network saw other pixels", "")
    monkeypatch.setattr(
        "converter.make_samples.load_model", lambda options: replace(load_model(options), warnings=(warning,))
    )
    result = run(*MODEL, *INPUT, "--samples", "procedural", "-n", "2", "-o", tmp_path / "c.npz")
    assert result.exit_code == 0, result.output
    assert "warning: the network saw other pixels" in result.output


def test_samples_far_from_the_statistics_are_said(tmp_path: Path) -> None:
    """As a conversion does: one step makes no samples that calibrate well."""
    result = run(*MODEL, *INPUT, "--gan-steps", "1", "-n", "4", "-o", tmp_path / "c.npz")
    assert result.exit_code == 0, result.output
    assert "warning: the samples are far from the batch-norm statistics" in result.output
    assert "are classified as their intended class" in result.output


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("calibrators.data.export._write_png", full)
    result = run(*MODEL, *INPUT, "--samples", "procedural", "-n", "4", "-o", tmp_path / "calib")
    assert result.exit_code == 1
    assert "No space left on device" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_text_network_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Embedding(10, 4).state_dict(), tmp_path / "m.pth")
    result = run(tmp_path / "m.pth", "-o", tmp_path / "c.npz")
    assert result.exit_code == 1
    assert not (tmp_path / "c.npz").exists()
