"""The last lines on the terminal."""

import re
import shlex
from dataclasses import replace

import pytest

from converter.report.document import AgreementSection, CPUInt8Section, Report, SynthesisSection
from converter.report.files import FILES
from converter.report.summary import missed_gate, summary
from converter.workspace import CPU_ENGINE, FP32_ONNX, INT8_ONNX, RTX_ENGINE, TENSORRT_ENGINE
from engines.cli.bench import bench
from engines.cli.build import build
from tests.converter.report.html.reports import bare_report, full_report


def rows(report: Report, **how: int) -> dict[str, str]:
    """Label -> text of the results; what goes on in the next line is joined to it."""
    found: dict[str, str] = {}
    label = ""
    for line in summary(report, "", **how).partition("\n\n")[2].partition("\n\n")[0].splitlines():
        start = re.match(r"  (\S+) +(.*)", line)
        label, text = start.groups() if start else (label, line.strip())
        found[label] = f"{found[label]} {text}" if label in found else text
    return found


def with_engine(report: Report, engine: str, asked: str) -> Report:
    """``report`` of an engine that was chosen because ``--engine`` said ``asked``."""
    measured = [replace(entry, engine=engine) for entry in report.throughput if entry.precision != "fp16"]
    return replace(report, throughput=measured, options={**report.options, "engine": asked})


def next_commands(report: Report) -> list[str]:
    return re.findall(r"^    (.*)$", summary(report, "").partition("\nnext:\n")[2], re.MULTILINE)


def test_the_result_comes_first_and_what_to_do_last() -> None:
    text = summary(full_report(), "")
    places = [
        text.index(word)
        for word in ("PASSED in 283.9 s", "top-1", "agreement", "size", "speed", "files in out:")
    ]
    assert places == sorted(places)
    assert text.splitlines()[1].startswith("PASSED")
    assert text.index("next:") > places[-1]


def test_accuracy_size_and_speed_are_said_in_numbers() -> None:
    found = rows(full_report())
    assert found["top-1"] == "FP32 69.76 % -> INT8 69.52 % (-0.24 points) on 5000 images of --val"
    assert found["agreement"].startswith("same class as FP32: 96.14 % on 5000 images of --val")
    assert found["agreement"].endswith("same class as FP32: 97.46 % on 512 fresh samples")
    assert found["size"] == "FP32 46.75 MB -> INT8 11.80 MB (25% of it)"
    assert found["speed"] == (
        "TensorRT on this GPU, images/s: batch 1: FP32 512.5, FP16 1100.2, INT8 1612.8 (3.15 x) "
        "batch 8: FP32 1490.5, FP16 3415.0, INT8 5320.5 (3.57 x)"
    )


@pytest.mark.parametrize(
    ("engine", "asked", "told"),
    [
        ("onnxruntime", "auto", True),
        ("onnxruntime", "tensorrt-rtx", True),
        ("onnxruntime", "onnxruntime", False),
        ("tensorrt", "auto", False),
    ],
)
def test_a_speed_on_the_cpu_is_no_verdict_on_an_engine_for_gpus(engine: str, asked: str, told: bool) -> None:
    speed = rows(with_engine(full_report(), engine, asked))["speed"]
    assert ("ONNX Runtime on this CPU" in speed) is (engine == "onnxruntime")
    assert ("gains on an NVIDIA GPU was not measured here" in speed) is told
    assert "slower" not in speed


def test_an_engine_that_is_partly_in_float_is_not_called_int8() -> None:
    report = with_engine(full_report(), "onnxruntime", "auto")
    assert "INT8 1612.8" in rows(report)["speed"]
    kept = CPUInt8Section("fastest", 12, ["conv2d"], {"1": 1.2}, {"1": 0.8}, 2.0)
    speed = rows(replace(report, cpu_int8=kept))["speed"]
    assert "engine 1612.8" in speed
    assert "INT8 1612.8" not in speed


def test_the_gpu_is_named_where_it_is_known() -> None:
    report = full_report()
    report = replace(report, device=replace(report.device, measured_on={"name": "NVIDIA L4"}))
    assert rows(report)["speed"].startswith("TensorRT on NVIDIA L4, images/s:")


def test_warnings_are_counted_beside_the_verdict() -> None:
    first = summary(full_report(), "").splitlines()[1]
    assert first == "PASSED in 283.9 s, with 2 warnings (see above, or report.json)"
    assert "warning" not in summary(bare_report(), "")
    missed = summary(bare_report(), "INT8 loses 3.00 points").splitlines()[1]
    assert missed.startswith("MISSED: INT8 loses 3.00 points; built all the same, in ")


def test_nothing_measured_is_said() -> None:
    assert rows(bare_report())["agreement"] == "not measured: there were neither samples nor --val"


def test_the_files_are_listed_with_what_they_are() -> None:
    listed = re.findall(r"^  (\S+\.\S+) +(.*)$", summary(full_report(), ""), re.MULTILINE)
    assert [name for name, _ in listed] == [name for name in FILES if name in full_report().artifacts]
    assert all(what == FILES[name] for name, what in listed)


def test_a_terminal_gets_colours_and_its_width_and_a_pipe_neither() -> None:
    plain = summary(full_report(), "")
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) > 80
    styled = summary(full_report(), "", width=80, styled=True)
    assert "\x1b[1;32mPASSED" in styled
    bare = re.sub(r"\x1b\[[\d;]*m", "", styled)
    assert max(map(len, bare.partition("next:")[0].splitlines())) <= 80
    assert rows(full_report(), width=80) == rows(full_report())


def test_no_color_takes_the_colours_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    codes = set(re.findall(r"\x1b\[([\d;]*)m", summary(full_report(), "", width=80, styled=True)))
    assert codes <= {"0", "1", "2"}  # bold and faint are no colours


@pytest.mark.parametrize(
    ("percent", "line"), [(12.345, "12.3 % of the multiply-adds stay in float"), (0.0, None)]
)
def test_what_stays_in_float_is_told(percent: float, line: str | None) -> None:
    report = full_report()
    report = replace(report, quantization=replace(report.quantization, float_macs_percent=percent))
    assert rows(report).get("precision") == line


@pytest.mark.parametrize(
    ("measure", "line"),
    [
        ("same boxes (IoU 0.5)", "same boxes (IoU 0.5) as FP32: 97.50 % on 64 fresh samples"),
        ("cosine", "agreement with FP32 (cosine): 97.50 % on 64 fresh samples"),
    ],
)
def test_agreement_is_named_after_what_it_counts(measure: str, line: str) -> None:
    found = AgreementSection(None, 64, measure, 97.5)
    assert rows(replace(bare_report(), agreement=found))["agreement"] == line


def test_an_agreement_of_nothing_is_not_measured() -> None:
    report = replace(bare_report(), agreement=AgreementSection(None, 64, "same boxes (IoU 0.5)", None))
    line = "same boxes (IoU 0.5) as FP32: not measured, as FP32 finds nothing on 64 fresh samples"
    assert rows(report)["agreement"] == line


@pytest.mark.parametrize(
    ("batch_norms", "asked", "why"),
    [
        (0, "auto", ": the network has no batch norm"),
        (3, "procedural", ", as --samples asks for"),
        (3, "auto", ""),  # from a cache
    ],
)
def test_procedural_images_are_told(batch_norms: int, asked: str, why: str) -> None:
    report = bare_report()
    report = replace(
        report,
        calibration=replace(report.calibration, source="procedural"),
        model=replace(report.model, bn_layers=batch_norms),
        options={**report.options, "sample_source": asked},
    )
    assert rows(report)["samples"] == f"calibrated on procedural images{why}"


def test_samples_that_only_fine_tune_did_not_calibrate() -> None:
    synthesis = SynthesisSection(0, 0.1, None, None, 0, 0, [], reused=False, history=[], source="procedural")
    assert "calibrated on procedural images" not in summary(replace(bare_report(), synthesis=synthesis), "")


@pytest.mark.parametrize(
    ("task", "what"),
    [
        ("classes", "accuracy on labelled images"),
        ("boxes", "agreement on real images, which need no labels; mAP where COCO's boxes are beside them"),
        ("embedding", "agreement on real images, which need no labels"),
    ],
)
def test_the_next_command_says_what_images_would_tell(task: str, what: str) -> None:
    report = bare_report()
    report = replace(report, model=replace(report.model, task=task))
    assert f"  measure {what}:\n    {report.command} --val DIR" in summary(report, "")


def with_files(report: Report, *names: str) -> Report:
    return replace(report, artifacts={name: f"my out/{name}" for name in names})


@pytest.mark.parametrize(
    ("engine", "asked", "files", "command"),
    [
        ("onnxruntime", "auto", (INT8_ONNX, CPU_ENGINE, FP32_ONNX),
         f"zscgan-build 'my out/{INT8_ONNX}' --engine tensorrt -o {TENSORRT_ENGINE}"),
        ("onnxruntime", "onnxruntime", (INT8_ONNX, CPU_ENGINE, FP32_ONNX),
         f"zscgan-bench 'my out/{FP32_ONNX}' 'my out/{CPU_ENGINE}' --batch 1,8,32"),
        ("onnxruntime", "tensorrt-rtx", (INT8_ONNX, CPU_ENGINE, FP32_ONNX, RTX_ENGINE),
         f"zscgan-bench 'my out/{RTX_ENGINE}' --batch 1,8,32"),
        ("tensorrt", "auto", (INT8_ONNX, CPU_ENGINE, FP32_ONNX, TENSORRT_ENGINE),
         f"zscgan-bench 'my out/{TENSORRT_ENGINE}' --batch 1,8,32"),
    ],
)  # fmt: skip
def test_the_next_command_is_for_the_engine(
    engine: str, asked: str, files: tuple[str, ...], command: str
) -> None:
    report = with_files(with_engine(full_report(), engine, asked), *files)
    assert next_commands(report) == [command]
    program, *arguments = shlex.split(command)
    {"zscgan-build": build, "zscgan-bench": bench}[program].make_context(program, arguments)


def test_commands_to_type_are_not_cut_into_lines() -> None:
    report = replace(bare_report(), command=f"zscgan-convert {'long/' * 40}net.pth --int8")
    assert f"    {report.command} --val DIR" in summary(report, "", width=80, styled=True).splitlines()


def test_a_loss_of_a_detector_is_one_of_agreement() -> None:
    full = full_report()
    assert full.mixed_precision is not None
    report = replace(
        full,
        accuracy=None,
        prediction=None,
        agreement=None,
        model=replace(full.model, task="boxes"),
        mixed_precision=replace(full.mixed_precision, by="agreement", drop=2.0),
    )
    assert missed_gate(report, 0.5).startswith("INT8 loses 2.00 points of agreement with FP32, as measured")
    report = replace(report, agreement=AgreementSection(None, 64, "same boxes (IoU 0.5)", 98.0))
    assert "2.00 points of agreement with FP32 (same boxes (IoU 0.5)), as measured" in missed_gate(
        report, 0.5
    )
