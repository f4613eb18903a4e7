"""The command as a user types it: results, refusals, exit codes, and what is left on the disk."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from torch import nn

from calibrators.ranges.cache_file import cache_from_text
from converter.cli.convert import command
from converter.environment.cache_version import cache_version
from converter.report.document import report_from_json
from converter.report.html.page import save_page
from engines.cli.bench import bench
from engines.cli.build import build
from tests.converter.digits import DIGITS, INPUT, MODEL, quick_conversions

ROOT = Path(__file__).parents[3]
SHORT = ["--int8", "--gan-steps", "12", "--calib-samples", "64", "--cpu-int8", "all"]
ARTIFACTS = {
    "calibration.cache", "calibration.json", "generator.pt", "model.fp32.onnx", "model.int8.onnx",
    "model.onnxruntime.onnx", "report.html", "report.json", "samples.png",
}  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """These tests are not about the figures of the benchmark, nor about capturing."""
    with quick_conversions():
        yield


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def refused(result: Result, code: int, *words: str) -> None:
    """One message, this exit code, no traceback."""
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output


@pytest.fixture(scope="module")
def converted(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One conversion that several tests look at."""
    output = tmp_path_factory.mktemp("converted") / "out"
    result = run(*MODEL, *INPUT, *SHORT, "--val", DIGITS / "test.npz", "-o", output)
    assert result.exit_code == 0, result.output
    return output


def test_all_outputs_are_there_and_no_others(converted: Path) -> None:
    assert {path.name for path in converted.iterdir()} == ARTIFACTS
    assert [path.name for path in converted.parent.iterdir()] == ["out"]


def test_samples_of_a_short_training_are_guided(quick: None, tmp_path: Path) -> None:
    result = run(*MODEL, *INPUT, *SHORT, "--gan-steps", "2", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "guided to their classes in at most 4 steps" in result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["synthesis"]["guide_steps"], report["synthesis"]["classes"]) == (4, 10)
    assert report["agreement"]["samples"] == 64
    page = (tmp_path / "out" / "report.html").read_text()
    assert "optimized toward a class near it, in at most 4 gradient steps" in page
    again = [
        "--generator",
        tmp_path / "out" / "generator.pt",
        "--gan-steps",
        "4000",
        "-o",
        tmp_path / "again",
    ]
    assert run(*MODEL, *INPUT, *SHORT, *again).exit_code == 0
    ranges = [(tmp_path / name / "calibration.json").read_bytes() for name in ("out", "again")]
    assert ranges[0] == ranges[1]


def test_the_report_says_what_was_done(converted: Path) -> None:
    report = json.loads((converted / "report.json").read_text())
    assert report["schema"] == 1
    assert report["device"]["ranks"] == 1
    assert report["options"]["model"]["input_shape"] == [1, 8, 8]
    assert report["model"]["bn_layers"] == 11
    assert report["model"]["classes"] == 10
    assert (report["synthesis"]["steps"], report["synthesis"]["generators"]) == (12, 1)
    assert report["calibration"]["samples"] == 64
    assert report["calibration"]["cache_version"] == cache_version(None).version
    ranges = report["calibration"]["ranges"]
    assert all(value > 0 for value in ranges.values())
    divergence = report["calibration"]["divergence"]
    assert set(divergence) == {"entropy", "max", "percentile", "mse"}
    assert report["calibration"]["algorithm"] == min(divergence, key=divergence.__getitem__)
    assert divergence[report["calibration"]["algorithm"]] < 0.1
    # The cache has every activation, for TensorRT's implicit quantization; the report those with Q/DQ pairs.
    cache = cache_from_text((converted / "calibration.cache").read_text())
    assert set(ranges) < set(cache.scales)
    assert next(iter(cache.scales)) == "input"
    assert next(reversed(cache.scales)) == "logits"
    assert report["accuracy"]["images"] == 500
    assert report["accuracy"]["fp32_top1"] == pytest.approx(99.8)
    assert {(t["precision"], t["batch"]) for t in report["throughput"]} == {
        ("fp32", 1), ("int8", 1), ("fp32", 8), ("int8", 8),
    }  # fmt: skip
    assert set(report["artifacts"]) == ARTIFACTS
    assert all(Path(path).exists() for path in report["artifacts"].values())
    sizes = {name: (converted / name).stat().st_size for name in ARTIFACTS - {"report.html", "report.json"}}
    assert report["artifact_bytes"] == sizes
    assert [shown["class"] for shown in report["synthesis"]["shown"]] == list(range(10))
    edges = report["quantization"]["edges"]
    assert {edge["range_of"] for edge in edges if edge["kind"] == "activation"} == set(ranges)
    assert sum(edge["kind"] == "weight" for edge in edges) == report["quantization"]["weights"]
    assert [stage["name"] for stage in report["stages"]][:3] == ["load", "capture", "baseline"]


def test_the_report_is_a_page_too(converted: Path) -> None:
    again = save_page(
        report_from_json((converted / "report.json").read_bytes()),
        converted / "samples.png",
        converted.with_name("again.html"),
    )
    assert again.read_bytes() == (converted / "report.html").read_bytes()
    again.unlink()


def test_the_input_range_is_that_of_the_pixels(converted: Path) -> None:
    ranges = json.loads((converted / "report.json").read_text())["calibration"]["ranges"]
    assert ranges["input"] == pytest.approx((1 - 0.305) / 0.376)


def test_both_onnx_models_are_valid(converted: Path) -> None:
    for name in ("model.fp32.onnx", "model.int8.onnx"):
        onnx.checker.check_model(onnx.load(converted / name), full_check=True)


def test_same_seed_same_bytes(converted: Path, here: Path) -> None:
    assert run(*MODEL, *INPUT, *SHORT, "-o", "again").exit_code == 0
    for name in ("calibration.cache", "model.int8.onnx", "model.onnxruntime.onnx", "samples.png"):
        assert (here / "again" / name).read_bytes() == (converted / name).read_bytes(), name


def test_a_generator_is_used_again(converted: Path, here: Path) -> None:
    result = run(*MODEL, *INPUT, *SHORT, "--generator", converted / "generator.pt", "-o", "again")
    assert result.exit_code == 0, result.output
    assert (here / "again" / "calibration.cache").read_bytes() == (
        converted / "calibration.cache"
    ).read_bytes()
    refused(
        run(
            *MODEL,
            "--preset",
            "unit",
            "--input-shape",
            "1x8x8",
            *SHORT,
            "--generator",
            converted / "generator.pt",
        ),
        1,
        "--mean",
    )


@pytest.mark.slow
def test_a_calibration_cache_is_written_then_read(here: Path) -> None:
    flags = [*MODEL, *INPUT, *SHORT, "--calibration-cache", "mine.cache", "-o", "out"]
    result = run(*flags)
    assert result.exit_code == 0
    assert ("note: calibration.cache is for TensorRT" in result.output) is cache_version(None).assumed
    assert {"mine.cache", "mine.json"} <= {path.name for path in here.iterdir()}
    first = (here / "out" / "model.int8.onnx").read_bytes()
    result = run(*flags)
    assert result.exit_code == 0
    assert "ranges from mine.cache" in result.output
    assert (here / "out" / "model.int8.onnx").read_bytes() == first


def test_a_cache_of_another_model_is_refused(converted: Path, here: Path) -> None:
    state = torch.load(DIGITS / "digits.pth", weights_only=True)
    torch.save(
        {name: value * 1.01 if value.is_floating_point() else value for name, value in state.items()},
        "other.pth",
    )
    result = run(
        "other.pth", *MODEL[1:], *INPUT, *SHORT, "--calibration-cache", converted / "calibration.cache"
    )
    refused(result, 1, "fingerprint", "--recalibrate")
    assert not (here / "other_int8").exists()


@pytest.mark.slow
def test_real_images_calibrate_without_a_generator(here: Path) -> None:
    result = run(
        *MODEL,
        *INPUT,
        *SHORT,
        "--no-html",
        "--calib-data",
        DIGITS / "test.npz",
        "--val",
        DIGITS / "test.npz",
        "-o",
        "out",
    )
    assert result.exit_code == 0, result.output
    report = json.loads((here / "out" / "report.json").read_text())
    assert not (here / "out" / "report.html").exists()
    assert "report.html" not in report["artifacts"]
    assert report["synthesis"] is None
    assert report["calibration"]["source"] == "images"
    assert not (here / "out" / "generator.pt").exists()


@pytest.mark.slow
def test_json_is_all_that_stands_on_stdout(here: Path) -> None:
    result = run(*MODEL, *INPUT, *SHORT, "--json", "-o", "out")
    assert json.loads(result.stdout) == json.loads((here / "out" / "report.json").read_text())
    assert "PASSED" in result.stderr


@pytest.mark.slow
def test_a_missed_gate_exits_with_three(here: Path) -> None:
    flags = [
        "--val",
        DIGITS / "test.npz",
        "--max-drop",
        "0",
        "--calibrator",
        "percentile",
        "--percentile",
        "40",
    ]
    result = run(*MODEL, *INPUT, *SHORT, *flags, "-o", "out")
    refused(result, 3, "MISSED", "--max-drop 0")
    assert (here / "out" / "report.json").exists()


@pytest.mark.slow
def test_a_model_without_batch_norm_takes_images_of_either_kind(here: Path) -> None:
    (here / "plain.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).state_dict(), "plain.pth")
    flags = ["plain.pth", "--arch", "plain.py:net", *INPUT, *SHORT]
    refused(run(*flags, "--samples", "zscgan"), 1, "--calib-data")
    assert not (here / "plain_int8").exists()
    for more, source in ((["--calib-data", DIGITS / "test.npz"], "images"), ([], "procedural")):
        result = run(*flags, *more, "-o", source)
        assert result.exit_code == 0, result.output
        report = json.loads((here / source / "report.json").read_text())
        assert (report["calibration"]["source"], report["model"]["bn_layers"]) == (source, 0)
        assert report["synthesis"] is None or report["synthesis"]["source"] == source
        assert (here / source / "model.int8.onnx").exists()


WRONG_FLAGS = [
    (["--input-shape", "0x8x8"], "--input-shape"),
    (["--input-shape", "axbxc"], "--input-shape"),
    (["--input-shape", "1x8"], "--input-shape"),
    (["--std", "0"], "--std"),
    (["--mean", "a"], "--mean"),
    (["--calib-samples", "-5"], "--calib-samples"),
    (["--gan-steps", "0"], "--gan-steps"),
    (["--guide-steps", "-1"], "--guide-steps"),
    (["--gan-batch", "-2"], "--gan-batch"),
    (["--seed", "-1"], "--seed"),
    (["--engine", "warp"], "--engine"),
    (["--calibrator", "guess"], "--calibrator"),
    (["--percentile", "0"], "--percentile"),
    (["--max-drop", "-1"], "--max-drop"),
    (["--crop", "0"], "--crop"),
    (["--resize", "240x0"], "--resize"),
    (["--recalibrate"], "--calibration-cache"),
    (["--generator", "g.pt", "--calib-data", "d"], "--generator"),
    (["--compute-capability", "9.0"], "--compute-capability"),
    (["--max-shapes", "nine"], "--max-shapes"),
    (["--what"], "--what"),
]


@pytest.mark.parametrize(
    ("flags", "word"), WRONG_FLAGS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_wrong_command_line_exits_with_two(flags: list[str], word: str, here: Path) -> None:
    refused(run(*MODEL, *INPUT, *SHORT, *flags), 2, word)
    assert list(here.iterdir()) == []


def test_the_precision_must_be_said(here: Path) -> None:
    refused(run(*MODEL, *INPUT), 2, "--int8")


def test_an_engine_that_cannot_be_had_is_an_error(here: Path) -> None:
    refused(run(*MODEL, *INPUT, *SHORT, "--engine", "tensorrt"), 1, "zscgan-convert[tensorrt]")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "flags", [["--calib-data", "none"], ["--val", "none.npz"], ["--generator", "none.pt"]]
)
def test_missing_files_are_refused_and_nothing_is_left(flags: list[str], here: Path) -> None:
    refused(run(*MODEL, *INPUT, *SHORT, *flags), 1, flags[1])
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_poor_samples_are_told_of(here: Path) -> None:
    result = run(*MODEL, *INPUT, "--int8", "--gan-steps", "1", "--calib-samples", "32", "-o", "out")
    assert result.exit_code == 0, result.output
    warnings = json.loads(Path("out/report.json").read_text())["warnings"]
    assert any("far from the batch-norm statistics" in warning for warning in warnings)
    assert any("classified as their intended class" in warning for warning in warnings)


def test_a_val_without_labels_measures_agreement(converted: Path, here: Path) -> None:
    with np.load(DIGITS / "test.npz") as archive:
        np.savez("val.npz", images=archive["images"])
    flags = ["--generator", converted / "generator.pt", "--val", "val.npz", "-o", "out"]
    result = run(*MODEL, *INPUT, *SHORT, *flags)
    assert result.exit_code == 0, result.output
    found, labelled = (
        json.loads((folder / "report.json").read_text()) for folder in (here / "out", converted)
    )
    accuracy = found["accuracy"]
    assert [accuracy[name] for name in ("fp32_top1", "int8_top1", "metric", "fp32", "int8")] == [None] * 5
    for name in ("images", "agreement", "standard_error", "measure"):
        assert accuracy[name] == labelled["accuracy"][name]
    assert "baseline" not in {stage["name"] for stage in found["stages"]}
    assert f"same class as FP32: {accuracy['agreement']:.2f} % on 500 images of --val" in result.output
    assert re.search(r"^  predicted +on real data another class", result.output, re.MULTILINE)
    assert re.search(
        r"^  measure accuracy on labelled images:\n    zscgan-convert .* --val DIR$",
        result.output,
        re.MULTILINE,
    )


def test_an_unreadable_image_is_named_before_any_training(here: Path) -> None:
    for label in range(10):
        folder = here / "val" / str(label)
        folder.mkdir(parents=True)
        Image.new("L", (8, 8)).save(folder / "good.png")
    (here / "val" / "3" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    result = run(*MODEL, *INPUT, *SHORT, "--val", "val")
    refused(result, 1, "bad.png")
    assert "synthesis" not in result.output
    assert [path.name for path in here.iterdir()] == ["val"]


@pytest.mark.parametrize(
    "content", [b"", b"\x80\x02garbage", os.urandom(300)], ids=["empty", "truncated", "noise"]
)
def test_what_is_no_checkpoint_is_refused(content: bytes, here: Path) -> None:
    (here / "model.pth").write_bytes(content)
    refused(run("model.pth", *MODEL[1:], *INPUT, *SHORT), 1, "model.pth")
    assert [path.name for path in here.iterdir()] == ["model.pth"]


def test_an_output_that_cannot_be_written_is_refused(here: Path) -> None:
    (here / "file").write_text("")
    refused(run(*MODEL, *INPUT, *SHORT, "-o", "file"), 1, "-o")
    refused(run(*MODEL, *INPUT, *SHORT, "-o", "file/deeper"), 1, "-o")
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_full_disk_leaves_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("converter.stages.synthesis.save_generator", full)
    refused(run(*MODEL, *INPUT, *SHORT, "-o", "out"), 1, "No space left")
    assert list(here.iterdir()) == []


def test_tracebacks_only_for_those_who_ask(here: Path) -> None:
    result = run("none.pth", *MODEL[1:], *INPUT, *SHORT, "-vv")
    assert result.exit_code == 1
    assert "Traceback" in result.output


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys; from converter.cli.convert import command; from click.testing import CliRunner; "
        "assert all(CliRunner().invoke(command, [flag]).exit_code == 0 for flag in ('--help', '--help-all')); "
        "heavy = {'torch', 'torchvision', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("shown", [command, build, bench], ids=lambda shown: shown.name)
def test_help_shows_every_option_in_a_group(shown: click.Command) -> None:
    text = CliRunner().invoke(shown, ["--help-all" if shown is command else "--help"]).output
    groups = re.findall(r"^(\S.*):\n((?:  .*\n)+)", text, re.MULTILINE)
    flags = {title: re.findall(r"^  (?:-\w, )?(--[a-z0-9-]+)", body, re.MULTILINE) for title, body in groups}
    assert {"Engine", "Output"} <= set(flags)
    assert set(flags.pop("Other options")) <= {"--version", "--help-all", "--help"}
    listed = [flag for group in flags.values() for flag in group]
    options = [option for option in shown.params if isinstance(option, click.Option)]
    expected = {next(flag for flag in option.opts if flag.startswith("--")) for option in options}
    expected -= {"--version", "--help-all"}
    assert (sorted(listed), max(map(len, flags.values())) < 9) == (sorted(expected), True)


def test_help_is_plain_text_with_the_shape_as_it_is_typed() -> None:
    text = CliRunner().invoke(command, ["--help-all"]).output
    assert "--input-shape CxHxW" in text
    assert text.isascii()
    assert "\x1b" not in text


LONG = ["--int8", "--gan-steps", "30", "--calib-samples", "64", "--calibrator", "max", "-o", "out"]
# A conversion in each of the given folders, by a process of its own that is told on stdout, and at the end how each
# ended. All save their training after every step. What takes long to import is imported once.
CONVERSIONS = """
import functools, os, sys
from calibrators.zscgan import resume as checkpoint
from converter import pipeline
from converter.stages import synthesis
from converter.cli.convert import main
synthesis.checkpointing = functools.partial(checkpoint.checkpointing, every_s=0)
processes = []
for folder in sys.argv.pop(1).split(os.pathsep):
    process = os.fork()
    if process == 0:
        os.chdir(folder)
        os.dup2(os.open("said", os.O_WRONLY | os.O_CREAT), 2)
        try:
            main()
        except SystemExit as ended:
            os._exit(ended.code)  # libraries that were loaded before the fork can't be unloaded after it
    processes.append(process)
print(*processes, flush=True)
print(*(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes))
"""
SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[signal.Signals, tuple[Path, int]]:
    """The folder and the exit code of a conversion that got a signal during its training, for each signal."""
    folders = [tmp_path_factory.mktemp(number.name) for number in SIGNALS]
    script = [sys.executable, "-c", CONVERSIONS, os.pathsep.join(map(str, folders)), *MODEL, *INPUT, *LONG]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(script, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        processes = [int(word) for word in parent.stdout.readline().split()]
        waiting = list(zip(SIGNALS, folders, processes, strict=True))
        deadline = time.monotonic() + 240
        try:
            while waiting and time.monotonic() < deadline:
                for number, folder, process in waiting.copy():
                    if (folder / "out.partial" / "training.ckpt").exists():
                        os.kill(process, number)
                        waiting.remove((number, folder, process))
                time.sleep(0.05)
        finally:
            for _, _, process in waiting:
                os.kill(process, signal.SIGKILL)
        codes = [int(word) for word in parent.stdout.readline().split()]
    assert waiting == []
    return dict(zip(SIGNALS, zip(folders, codes, strict=True), strict=True))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The INT8 model of the same conversion, not stopped."""
    output = tmp_path_factory.mktemp("uninterrupted") / "out"
    result = run(*MODEL, *INPUT, *LONG[:-1], output)
    assert result.exit_code == 0, result.output
    return (output / "model.int8.onnx").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_an_interrupted_run_goes_on_to_the_same_result(
    number: signal.Signals,
    stopped: dict[signal.Signals, tuple[Path, int]],
    uninterrupted: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, code = stopped[number]
    assert code == (-9 if number == signal.SIGKILL else 130), (folder / "said").read_text()
    checkpoint = folder / "out.partial" / "training.ckpt"
    assert not (folder / "out").exists()
    assert checkpoint.exists()
    monkeypatch.chdir(folder)
    resumed = run(*MODEL, *INPUT, *LONG)
    assert resumed.exit_code == 0, resumed.output
    assert "going on from step" in resumed.output
    assert not checkpoint.parent.exists()
    assert (folder / "out" / "model.int8.onnx").read_bytes() == uninterrupted
