"""--qat as a user types it: the whole conversion of the digits example, going on after a stop, and the refusals."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import numpy_helper

from calibrators.ranges.ranges import Ranges, load_ranges
from calibrators.zscgan import resume as checkpoint
from converter.cli.convert import command
from converter.qat import training
from converter.stages import calibration
from converter.stages import fine_tuning as stage
from converter.workspace import QAT_CHECKPOINT
from tests.converter.digits import DIGITS, INPUT, MODEL, quick_conversions

SHORT = ["--int8", "--gan-steps", "20", "--calib-samples", "64", "--no-html"]
NARROW = 0.6
"""Of each range; with good ones fine-tuning has nothing to gain on digits."""
QAT = ["--qat", "--qat-steps", "10"]


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Throughput is measured, but not for long, few inputs are held out, and the ranges are too narrow."""
    measured = calibration.ranges_of_data

    def narrowed(*arguments: Any) -> tuple[Ranges, Any]:
        ranges, divergence = measured(*arguments)
        amax = {name: NARROW * value for name, value in ranges.amax.items()}
        return replace(ranges, amax=amax), divergence

    with quick_conversions() as patch:
        patch.setattr("converter.qat.data.inputs_for", lambda _: 128)
        patch.setattr(calibration, "ranges_of_data", narrowed)
        yield


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def converted(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One conversion that several tests look at."""
    output = tmp_path_factory.mktemp("converted") / "out"
    result = run(*MODEL, *INPUT, *SHORT, *QAT, "--val", DIGITS / "test.npz", "-o", output)
    assert result.exit_code == 0, result.output
    return output


@pytest.fixture(scope="module")
def plain(converted: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a fine-tuning that does harm, so that the network is that of post-training quantization."""
    output = tmp_path_factory.mktemp("plain") / "out"
    ruin = ["--qat", "--qat-steps", "2", "--qat-lr", "1", "--generator", converted / "generator.pt"]
    result = run(*MODEL, *INPUT, *SHORT, *ruin, "-o", output)
    assert result.exit_code == 0, result.output
    assert "weights and ranges stay as they were" in result.output
    assert "fine-tuning  agreement with FP32 on held-out inputs" in result.output
    assert "after; it was not kept" in result.output
    return output


def report_of(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def test_the_report_says_what_was_fine_tuned(converted: Path) -> None:
    qat = report_of(converted)["qat"]
    assert (qat["backend"], qat["steps"], qat["data"]) == ("modelopt", 10, "zscgan")
    assert qat["kept"] == "qat"
    assert (qat["agreement"]["qat"], -qat["kl"]["qat"]) > (qat["agreement"]["ptq"], -qat["kl"]["ptq"])
    assert qat["parity"]["agreement"] >= 98.0
    assert qat["parity"]["largest_logit_difference"] < 0.5
    assert [entry["step"] for entry in qat["history"]] == list(range(1, 11))
    assert qat["history"][-1]["agreement"] is not None
    assert report_of(converted)["accuracy"]["int8_top1"] >= 99.0


@pytest.mark.slow
def test_what_cannot_be_made_better_stays(plain: Path) -> None:
    report = report_of(plain)
    assert report["qat"]["kept"] == "ptq"
    ranges = load_ranges(plain / "calibration.json").amax
    assert all(value == ranges[name] for name, value in report["calibration"]["ranges"].items())


def test_the_fp32_model_is_the_original_and_the_int8_model_is_not(converted: Path, plain: Path) -> None:
    for name in ("model.fp32.onnx", "calibration.cache"):
        assert (converted / name).read_bytes() == (plain / name).read_bytes(), name
    before, after = (
        {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in onnx.load(folder / "model.int8.onnx").graph.initializer
        }
        for folder in (plain, converted)
    )
    assert before.keys() == after.keys()
    changed = {name for name in after if not np.array_equal(before[name], after[name])}
    assert any(name.endswith("weight_quantized") for name in changed)
    assert any(name.endswith("bias") for name in changed)
    assert any(name.endswith("_scale") and after[name].ndim == 0 for name in changed)
    # The ranges in calibration.json are for the original weights, those in the report for the tuned ones.
    ranges = load_ranges(converted / "calibration.json").amax
    assert any(value != ranges[name] for name, value in report_of(converted)["calibration"]["ranges"].items())


def test_a_stopped_fine_tuning_goes_on_to_the_same_bytes(
    converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [
        *MODEL,
        *INPUT,
        *SHORT,
        *QAT,
        "--generator",
        converted / "generator.pt",
        "-o",
        tmp_path / "out",
    ]
    descend = training.descend_student
    count = 0

    def stops(*given: Any) -> tuple[bool, float]:
        nonlocal count
        count += 1
        if count == 5:
            raise KeyboardInterrupt
        return descend(*given)

    monkeypatch.setattr(training, "descend_student", stops)
    monkeypatch.setattr(stage, "checkpointing", partial(checkpoint.checkpointing, every_s=0.0))
    result = run(*arguments)
    assert result.exit_code == 130, result.output
    assert f"{QAT_CHECKPOINT}; run the same command to resume" in result.output
    assert (tmp_path / "out.partial" / QAT_CHECKPOINT).exists()
    monkeypatch.setattr(training, "descend_student", descend)
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert "going on from step 4 of 10 of the fine-tuning" in result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert (tmp_path / "out" / "model.int8.onnx").read_bytes() == (converted / "model.int8.onnx").read_bytes()


@pytest.mark.slow
def test_real_images_take_the_place_of_samples(tmp_path: Path) -> None:
    data = ["--calib-data", DIGITS / "test.npz", "--qat-data", DIGITS / "test.npz"]
    result = run(*MODEL, *INPUT, "--int8", "--calib-samples", "64", *QAT, *data, "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert report_of(tmp_path / "out")["qat"]["data"] == "images"
    assert report_of(tmp_path / "out")["synthesis"] is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--qat-steps", "5"], 2, "--qat-steps belongs to the fine-tuning: add --qat"),
        (["--qat-data", "x"], 2, "--qat-data belongs to the fine-tuning: add --qat"),
        (["--qat-backend", "modelopt"], 2, "--qat-backend belongs to the fine-tuning: add --qat"),
        (["--qat", "--qat-steps", "0"], 2, "expected --qat-steps between 1 and"),
        (["--qat", "--qat-lr", "-1"], 2, "expected --qat-lr above 0"),
        (["--qat", "--implicit", "--calibrator", "max"], 2, "leave one of the two out"),
        (["--qat", "--calib-data", str(DIGITS / "test.npz")], 2, "add --qat-data DIR"),
        (["--qat", "--qat-data", "nowhere"], 1, "nowhere"),
        (["--qat", "--qat-backend", "pytorch-quantization"], 1, "--qat-backend modelopt"),
    ],
)
def test_refusals(
    flags: list[str], code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*MODEL, *INPUT, "--int8", *flags)
    assert result.exit_code == code, result.output
    assert words in " ".join(result.output.split())
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []
