"""The built wheel in an environment of its declared dependencies alone, outside of the checkout: its commands run."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.environments import COMMANDS, DEPENDENCIES, make_environment, outside

ROOT = Path(__file__).parents[1]

BRIEFLY = """
from functools import partial
from converter.cli.convert import main
from converter.stages import benchmark
benchmark.BenchOptions = partial(benchmark.BenchOptions, warmup_ms=0.0, duration_s=0.01)
main()
"""
"""What the command does, without the seconds that it measures throughput."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed"),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of an environment into which the wheel was installed; pip checks its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    environment = make_environment(folder / "venv", DEPENDENCIES)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, ROOT]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = folder.glob("zscgan_convert-*.whl")
    install = ["--python", environment / "python", "install", "--no-index", "--no-compile", wheel]
    subprocess.run([*pip, *install], check=True, capture_output=True, env=outside(environment))
    return environment


def packages(environment: Path) -> Path:
    (found,) = environment.parent.glob("lib/python*/site-packages")
    return found


def run(environment: Path, where: Path, *words: str | Path) -> "subprocess.CompletedProcess[str]":
    program, *arguments = words
    return subprocess.run(
        [environment / program, *arguments],
        cwd=where,
        env=outside(environment),
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_answers(command: str, installed: Path, tmp_path: Path) -> None:
    result = run(installed, tmp_path, command, "--help")
    assert result.returncode == 0, result.stderr
    assert f"Usage: {command}" in result.stdout


def test_the_version_is_that_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    said = run(installed, tmp_path, "zscgan-convert", "--version").stdout.split()[-1]
    (metadata,) = packages(installed).glob("zscgan_convert-*.dist-info")
    assert metadata.name == f"zscgan_convert-{said}.dist-info"


def test_the_doctor_finds_an_engine(installed: Path, tmp_path: Path) -> None:
    result = run(installed, tmp_path, "zscgan-doctor")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "onnxruntime builds and runs here" in result.stdout


def test_the_digits_of_the_wheel_are_converted(installed: Path, tmp_path: Path) -> None:
    """By the wheel's own files, the model included; throughput is measured briefly."""
    digits = packages(installed) / "converter" / "digits"
    model = [digits / "digits.pth", "--arch", f"{digits / 'model.py'}:digits_resnet"]
    network = ["--input-shape", "1x8x8", "--mean", "0.305", "--std", "0.376", "--int8"]
    quick = ["--gan-steps", "1", "--calib-samples", "64", "--calibrator", "max", "--no-html"]
    result = run(installed, tmp_path, "python", "-c", BRIEFLY, *model, *network, *quick, "-o", "out")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PASSED" in result.stdout
    assert (tmp_path / "out" / "model.int8.onnx").is_file()
    assert result.stderr.startswith("load ")
    assert str(ROOT) not in result.stdout + result.stderr
