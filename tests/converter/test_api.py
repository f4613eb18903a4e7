"""The conversion as a function: what is public, how keywords become options, and what comes back."""

import contextlib
import inspect
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import converter
from calibrators.errors import CalibrationError
from converter import Conversion, ConversionError, OptionsError, ZSCGANError, convert, pipeline
from converter.api import CLI_ONLY, command_line, keywords, request_of
from converter.cli.convert import command
from converter.console import Console
from converter.options import ConvertOptions
from engines.errors import EngineError
from tests.converter.digits import DIGITS, quick_conversions
from tests.converter.report.html.reports import bare_report, full_report

ROOT = Path(__file__).parents[2]
EXAMPLE = re.findall(
    r"^```python\n(.*?)^```$", (ROOT / "docs" / "python-api.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
)[0]


# What is public


def test_the_public_names() -> None:
    assert converter.__all__ == [
        "CalibrationError", "Conversion", "ConversionError", "EngineError", "OptionsError", "WarningMessage",
        "ZSCGANError", "__version__", "convert",
    ]  # fmt: skip
    assert [name for name in converter.__all__ if not hasattr(converter, name)] == []
    with pytest.raises(AttributeError, match="nothing"):
        converter.nothing  # type: ignore[attr-defined] # noqa: B018


def test_what_a_conversion_has() -> None:
    assert {name for name in dir(Conversion) if not name.startswith("_")} == {
        "agreement", "engine", "files", "fp32_accuracy", "fp32_onnx", "int8_accuracy", "int8_onnx", "metric", "output",
        "passed", "report", "throughput", "warnings", "missed",
    }  # fmt: skip
    page = (ROOT / "docs" / "python-api.md").read_text("utf-8")
    rows = " ".join(re.findall(r"^\| (`.+?) \|", page, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", rows)) == {n for n in dir(Conversion) if n[0] != "_"} | {"sections"}


def test_every_option_is_a_keyword_or_belongs_to_the_command_line_alone() -> None:
    parameters = inspect.signature(convert).parameters
    assert next(iter(parameters)) == "model"
    assert set(parameters) - {"model", "progress"} == set(keywords()) - CLI_ONLY
    assert set(keywords()) > CLI_ONLY


def test_no_keyword_repeats_a_default() -> None:
    parameters = list(inspect.signature(convert).parameters.values())[1:]
    assert {parameter.kind for parameter in parameters} == {inspect.Parameter.KEYWORD_ONLY}
    assert all(parameter.default is None or parameter.default is False for parameter in parameters)
    flags = {name for name, option in keywords().items() if option.is_flag}
    assert {p.name for p in parameters if p.default is False} - {"progress"} == flags - CLI_ONLY - {"html"}


def test_all_errors_are_of_one_family() -> None:
    for kind in (ConversionError, OptionsError, CalibrationError, EngineError):
        assert issubclass(kind, ZSCGANError)


# Keywords


def request(**given: Any) -> ConvertOptions:
    return request_of(command_line("net.pth", given))[0]


def test_what_is_left_out_is_the_command_lines_default() -> None:
    typed = command.make_context("zscgan-convert", ["net.pth", "--int8"])
    assert command_line("net.pth", {"qat": False, "html": None, "val": None}) == ["net.pth", "--int8"]
    assert request().html is typed.params["html"] is True
    assert request().synthesis.steps == typed.params["steps"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"input_shape": (3, 8, 8)}, ["--input-shape", "3x8x8"]),
        ({"mean": (0.1, 0.25, 1e-05), "std": 0.5}, ["--mean", "0.1,0.25,1e-05", "--std", "0.5"]),
        ({"resize": (240, 320), "crop": 8, "val": Path("a b")},
         ["--resize", "240x320", "--crop", "8", "--val", "a b"]),
        ({"html": False, "fp16": True, "refit": False}, ["--no-html", "--fp16"]),
        ({"html": True}, ["--html"]),
        ({"compute_capability": ["8.6", "8.9"], "engine": "tensorrt-rtx"},
         ["--compute-capability", "8.6,8.9", "--engine", "tensorrt-rtx"]),
        ({"gan_steps": 7, "samples": "procedural", "calib_samples": 3},
         ["--gan-steps", "7", "--samples", "procedural", "--calib-samples", "3"]),
        ({"output": "-out"}, ["--output", "-out"]),
    ],
)  # fmt: skip
def test_keywords_are_the_flags_of_these_names(given: dict[str, Any], words: list[str]) -> None:
    assert command_line("net.pth", given) == ["net.pth", "--int8", *words]
    request(**given)


def test_keywords_mean_what_the_flags_mean() -> None:
    options = request(
        gan_steps=7, calibrator="max", qat=True, qat_steps=3, max_shapes=16, builder_optimization_level=2,
        hardware_compatibility_level="ampere+", input_shape=(3, 8, 8), max_drop=0.5, calib_samples=9,
    )  # fmt: skip
    synthesis = options.synthesis
    assert synthesis.steps == 7
    assert (options.choose_calibrator, options.asked_algorithm) == (False, "max")
    assert options.qat is not None
    assert options.qat.steps == 3
    assert (options.build.max_batch, options.build.builder_level) == (16, 2)
    assert options.build.hardware_compatible == "ampere+"
    assert options.model.input_shape == (3, 8, 8)
    assert (options.max_drop, options.calibration.samples) == (0.5, 9)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"gan_steps": 0}, "--gan-steps of at least 1"),
        ({"mean": 0.5}, "--mean and --std belong together"),
        ({"engine": "warp"}, "'warp' is not one of"),
        ({"qat_steps": 3}, "--qat-steps belongs to the fine-tuning"),
        ({"resize": (0, 3)}, "whole numbers from 1 up"),
    ],
)
def test_wrong_keywords_are_an_error_of_the_package(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionsError, match=re.escape(said)):
        convert("net.pth", **given)


def test_a_value_of_another_type_is_an_error_of_the_package() -> None:
    with pytest.raises(OptionsError, match="'many' is not a valid integer"):
        request(gan_steps="many")


def test_a_keyword_that_does_not_exist_is_refused() -> None:
    with pytest.raises(TypeError, match="gan_step"):
        convert("net.pth", gan_step=3)  # type: ignore[call-arg]


def test_a_missing_model_is_an_error_of_the_package_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConversionError, match=r"missing\.pth"):
        convert("missing.pth")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_under_torchrun_the_command_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(OptionsError, match=re.escape("torchrun -m converter 'a b.pth' --int8 --seed 3")):
        convert("a b.pth", seed=3)


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_what_the_command_line_prints(
    progress: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def stages(options: ConvertOptions, console: Console, line: str) -> Any:
        with console.stage("load"):
            console.info("note: an info")
        assert [warning.code for warning in console.warnings] == ["option-ignored"]
        assert line == "zscgan-convert net.pth --int8 --crop 8"
        return bare_report()

    monkeypatch.setattr(pipeline, "convert", stages)
    convert("net.pth", crop=8, progress=progress)
    out, err = capfd.readouterr()
    assert out == ""
    assert ("load" in err, "an info" in err, "warning: --crop" in err) == (progress,) * 3


# The result


def test_a_result_says_what_the_report_says() -> None:
    sections = full_report()
    result = Conversion(sections)
    assert (result.metric, result.fp32_accuracy, result.int8_accuracy) == ("top-1", 69.76, 69.52)
    assert result.agreement == 96.14
    assert result.output == Path("out")
    assert result.engine == result.files["model.tensorrt.plan"] == Path("out/model.tensorrt.plan")
    assert [warning.code for warning in result.warnings] == ["poor-labels", "plain"]
    assert result.throughput[-1].images_per_s == 5320.5
    assert result.report == json.loads(sections.to_json())
    assert str(result).startswith("PASSED in 283.9 s")


def test_a_result_without_labels_has_agreement_alone() -> None:
    full = full_report()
    result = Conversion(replace(full, accuracy=None))
    assert (result.metric, result.fp32_accuracy, result.int8_accuracy) == (None, None, None)
    assert result.agreement == 97.46
    assert Conversion(bare_report()).agreement is None
    missed = Conversion(full, "INT8 loses 3 points")
    assert not missed.passed
    assert str(missed).startswith("MISSED: INT8 loses 3 points")


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Conversion, Path, str]]:
    """What the example of docs/python-api.md gives, the folder that it ran in, and what it printed."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copytree(
        DIGITS, folder / "examples" / "digits", ignore=shutil.ignore_patterns("out", "__pycache__")
    )
    names: dict[str, Any] = {}
    printed = folder / "printed"
    with quick_conversions() as patch:
        patch.chdir(folder)
        with printed.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            exec(EXAMPLE, names)
        yield names["result"], folder, printed.read_text("utf-8")


def test_the_example_of_the_page_converts(converted: tuple[Conversion, Path, str]) -> None:
    result, folder, printed = converted
    assert result.output == Path("digits_int8")
    assert {path.name for path in (folder / "digits_int8").iterdir()} == set(result.files)
    assert result.report == json.loads((folder / "digits_int8" / "report.json").read_text("utf-8"))
    assert result.fp32_accuracy == pytest.approx(99.8)
    assert result.int8_accuracy is not None
    assert result.int8_accuracy > 90
    first, second = printed.splitlines()
    assert first == f"top-1 {result.fp32_accuracy} {result.int8_accuracy} {result.agreement}"
    assert second.startswith("digits_int8/model.int8.onnx digits_int8/model.onnxruntime.onnx [('fp32', ")


def test_the_command_of_the_report_gives_the_same(
    converted: tuple[Conversion, Path, str], tmp_path: Path
) -> None:
    result, folder, _ = converted
    program, *words = result.report["command"].split()
    assert (program, words[:2]) == ("zscgan-convert", ["examples/digits/digits.pth", "--int8"])
    words[words.index("digits_int8")] = str(tmp_path / "again")
    again = CliRunner().invoke(command, words)
    assert again.exit_code == 0, again.output
    for name in ("calibration.cache", "model.int8.onnx"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "digits_int8" / name).read_bytes()


def test_importing_convert_loads_nothing_heavy() -> None:
    script = (
        "import sys; from converter import convert, OptionsError\n"
        "try: convert('net.pth', gan_steps=0)\n"
        "except OptionsError: pass\n"
        "assert not {'torch', 'torchvision', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_commands_do_not_load_what_only_the_function_needs() -> None:
    script = "import sys; import converter.errors; assert not {'click', 'converter.api'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
