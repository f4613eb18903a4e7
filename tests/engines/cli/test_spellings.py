"""Flags as other tools spell them."""

import click
import pytest

from converter.cli.convert import command as convert
from engines.cli.bench import bench
from engines.cli.build import build
from engines.cli.spellings import SPELLINGS, usual_name

COMMANDS = {
    "convert": (convert, ["net.onnx", "--int8"]),
    "build": (build, ["net.onnx", "-o", "net.plan"]),
    "bench": (bench, ["net.onnx"]),
}


def given(name: str, *flags: str) -> dict[str, object]:
    command, needed = COMMANDS[name]
    return command.make_context(name, [*needed, *flags]).params


@pytest.mark.parametrize(
    ("name", "theirs", "ours"),
    [
        ("convert", ["--minShapes=input:1x3x8x8"], ["--min-shapes", "input:1x3x8x8"]),
        ("convert", ["--calibration_data_path", "x.npz"], ["--calib-data", "x.npz"]),
        ("convert", ["--calibration_method", "max"], ["--calibrator", "max"]),
        ("convert", ["--builder-level", "4"], ["--builder-optimization-level", "4"]),
        ("build", ["--builderOptimizationLevel=4"], ["--builder-optimization-level", "4"]),
        ("build", ["--hardwareCompatibilityLevel=ampere+"], ["--hardware-compatible", "ampere+"]),
        ("bench", ["--useCudaGraph", "--infStreams=2"], ["--cuda-graph", "--streams", "2"]),
        ("bench", ["--noDataTransfers", "--warmUp=0", "--duration=1"],
         ["--no-transfers", "--warmup-ms", "0", "--duration-s", "1"]),
    ],
)  # fmt: skip
def test_another_spelling_is_the_same_flag(name: str, theirs: list[str], ours: list[str]) -> None:
    assert given(name, *theirs) == given(name, *ours) != given(name)


def test_every_spelling_leads_to_a_flag() -> None:
    flags = {flag for command, _ in COMMANDS.values() for option in command.params for flag in option.opts}
    assert {f"--{name}" for name in SPELLINGS.values()} <= flags
    assert not {f"--{name}" for name in SPELLINGS} & flags


def test_other_names_stay_as_they_are() -> None:
    assert usual_name("int8") == "int8"
    with pytest.raises(click.NoSuchOption, match="--int9"):
        given("bench", "--int9")
