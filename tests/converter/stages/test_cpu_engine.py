"""``--cpu-int8``: which layers of ONNX Runtime's engine are in INT8, what is written of that, and what is judged."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from converter.cli.convert import command
from converter.errors import OptionsError
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from converter.report.document import report_from_json
from converter.stages import benchmark
from converter.stages import build as building
from converter.workspace import CPU_ENGINE, INT8_ONNX
from engines.onnxruntime import engine as onnxruntime
from engines.onnxruntime.engine import int8_kernels
from engines.onnxruntime.fastest import Choice
from tests.converter.digits import DIGITS, INPUT, MODEL, quick_conversions

IN_FLOAT = ("conv2d", "conv2d_1", "logits")
FLAGS = ["--int8", "--samples", "procedural", "--calib-samples", "64", "--calibrator", "max", "--no-html"]


@pytest.fixture
def quick() -> Iterator[pytest.MonkeyPatch]:
    with quick_conversions() as patch:
        yield patch


def convert(output: Path, *flags: str) -> Result:
    result = CliRunner().invoke(
        command, [*MODEL, *INPUT, *FLAGS, "--val", str(DIGITS / "test.npz"), "-o", str(output), *flags]
    )
    assert result.exit_code == 0, result.output
    return result


def report(output: Path) -> dict:
    content: dict = json.loads((output / "report.json").read_text())
    return content


def choose(patch: pytest.MonkeyPatch, in_float: tuple[str, ...]) -> None:
    """The machine on which these layers are faster in float."""

    def built(source: Path, path: Path) -> Choice:
        onnxruntime.build(source, path, in_float)
        return Choice(12, in_float, {1: 1.25, 8: 1.5}, {1: 0.75, 8: 1.125}, 4, 2.0)

    patch.setattr(building, "build_fastest", built)


@pytest.fixture
def pair(quick: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Result, Path, Path]:
    """What a conversion with layers in float said, its folder, and that of one with all in INT8."""
    choose(quick, IN_FLOAT)
    result = convert(tmp_path / "fastest")
    convert(tmp_path / "all", "--cpu-int8", "all")
    return result, tmp_path / "fastest", tmp_path / "all"


def test_layers_in_float_are_told_and_int8_is_judged(pair: tuple[Result, Path, Path]) -> None:
    """Agreement and accuracy are those of the INT8 network, whatever is faster here; the engine's own is beside."""
    result, fastest, everything = pair
    assert int8_kernels(fastest / CPU_ENGINE) == (9, 11)
    assert int8_kernels(everything / CPU_ENGINE) == (11, 11)
    assert (fastest / INT8_ONNX).read_bytes() == (everything / INT8_ONNX).read_bytes()

    found, other = report(fastest), report(everything)
    assert found["options"]["cpu_int8"] == "fastest"
    for section in ("agreement", "accuracy", "prediction"):
        assert found[section] == other[section]
    assert found["quantization"]["int8_convolutions"] == 9
    section = found["cpu_int8"]
    agreement = section.pop("agreement")
    assert section == {
        "mode": "fastest", "layers": 12, "kept_float": list(IN_FLOAT), "speed": {"1": 1.25, "8": 1.5},
        "all_int8_speed": {"1": 0.75, "8": 1.125}, "seconds": 2.0,
    }  # fmt: skip
    assert agreement["samples"] == 64
    # With layers in float the logits are nearer to FP32's.
    assert agreement["outputs"][0]["sqnr_db"] > found["agreement"]["outputs"][0]["sqnr_db"] + 1
    assert (other["cpu_int8"]["mode"], other["cpu_int8"]["kept_float"]) == ("all", [])
    assert other["cpu_int8"]["agreement"] is None

    assert (
        "9 of 11 convolutions on INT8 kernels, 3 of 12 layers in float, which is faster here" in result.stderr
    )
    assert (
        f"note: these are the figures of {INT8_ONNX}, all layers in INT8; those of {CPU_ENGINE}, with 3"
        in result.stderr
    )
    assert (
        "3 of 12 layers in float, which is faster on this machine (all in INT8: 0.75 x at batch 1 and 1.12 x at "
        "batch 8 the speed of all in float)" in result.stdout
    )
    assert report_from_json((fastest / "report.json").read_bytes()).cpu_int8 is not None


@pytest.mark.slow
def test_an_engine_all_in_float_is_the_one_that_is_measured(
    quick: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is the FP32 network itself, and no warning says that INT8 is slow."""
    everything = tuple(name for name in ("conv2d", *(f"conv2d_{n}" for n in range(1, 11)), "logits"))
    choose(quick, everything)
    result = convert(tmp_path / "out")
    found = report(tmp_path / "out")
    assert [row["precision"] for row in found["throughput"]] == ["fp32", "int8"] * 2
    assert found["quantization"]["int8_convolutions"] == 0
    assert benchmark.SLOWER.code not in {warning["code"] for warning in found["warning_details"]}
    assert "all 12 layers in float, which is faster on this machine" in result.stdout
    assert f"{CPU_ENGINE} is the FP32 network, which is faster here" in result.stderr
    (output,) = found["cpu_int8"]["agreement"]["outputs"]
    assert output["sqnr_db"] is None or output["sqnr_db"] > 100  # INT8's weights alone: 40


def test_other_words_are_refused() -> None:
    with pytest.raises(OptionsError, match="--cpu-int8 from fastest, all, got 'some'"):
        ConvertOptions(ModelOptions("mine.pth"), cpu_int8="some")
    result = CliRunner().invoke(command, [*MODEL, *INPUT, *FLAGS, "--cpu-int8", "some"])
    assert result.exit_code == 2
    assert "--cpu-int8" in result.output
