"""The Makefile and the extras: what is installed where. Nothing is run, ``make -n`` only prints."""

import os
import re
import shutil
import subprocess
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter with packages of its own, as the system's is."""
    folder = tmp_path_factory.mktemp("system")
    venv.create(folder, with_pip=False)
    return folder / "bin" / "python"


def packages(python: Path) -> Path:
    (found,) = (python.parents[1] / "lib").glob("python*/site-packages")
    return found


def printed(python: Path, target: str, where: Path) -> str:
    """What ``make`` would do for ``target`` with ``python`` and the venv in ``where``, started in ``where``."""
    command = [
        "make",
        "-n",
        "-f",
        ROOT / "Makefile",
        "--no-print-directory",
        f"PYTHON={python}",
        f"VENV={where}/.venv",
    ]
    # Without what an outer make hands on: its flags, and the variables that were given to it.
    mine = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment = {name: value for name, value in mine.items() if name not in ("ARGS", "PARALLEL")}
    result = subprocess.run(
        [*command, target], cwd=where, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("files", "seen"), [([], False), (["tensorrt/__init__.py"], True), (["tensorrt/a.pyi"], False)]
)
def test_the_venv_shows_the_systems_tensorrt_where_it_is_there(
    python: Path, tmp_path: Path, files: list[str], seen: bool
) -> None:
    """Also: neither a folder of stubs nor one in the current folder is TensorRT."""
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").touch()
    for name in files:
        path = packages(python) / name
        path.parent.mkdir()
        path.touch()
    try:
        text = printed(python, f"{tmp_path}/.venv/bin/pip", tmp_path)
    finally:
        shutil.rmtree(packages(python) / "tensorrt", ignore_errors=True)
    assert ("--system-site-packages" in text) is seen
    assert re.search(rf"-m venv .*{re.escape(str(tmp_path))}/\.venv", text)


@pytest.mark.parametrize(("has", "extras"), [(False, "[dev,tensorrt]"), (True, "[dev]")])
def test_the_systems_tensorrt_is_not_installed_a_second_time(
    python: Path, tmp_path: Path, has: bool, extras: str
) -> None:
    (tmp_path / "pyproject.toml").touch()
    shutil.copytree(python.parents[1], tmp_path / ".venv", symlinks=True)
    (tmp_path / ".venv" / "bin" / "pip").touch()
    if has:
        folder = packages(tmp_path / ".venv" / "bin" / "python") / "tensorrt"
        folder.mkdir()
        (folder / "__init__.py").touch()
    text = printed(python, f"{tmp_path}/.venv/.installed-gpu", tmp_path)
    assert f"-e '.{extras}'" in text


def test_tensorrt_installs_without_a_compiler() -> None:
    """PyCUDA has no wheel, so it would take TensorRT down with it where it can't be compiled."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = project.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = dict(re.findall(r"^(\w+) = \[([^\]]*)\]$", section, re.MULTILINE))
    assert "tensorrt>=" in extras["tensorrt"]
    assert [name for name, contents in extras.items() if "pycuda" in contents] == ["pycuda"]


def test_a_pycuda_that_does_not_compile_does_not_end_make(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    recipe = printed(Path("python3"), f"{tmp_path}/.venv/.installed-gpu", tmp_path)
    assert re.search(r"-e '\.\[pycuda\]'[^\n]*\|\|", recipe)


def test_tests_share_the_cores_but_not_the_gpu(python: Path, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").touch()
    assert re.search(r"-m pytest -n \S+ .*--dist loadfile", printed(python, "test", tmp_path))
    assert re.search(r"-m pytest -m gpu *$", printed(python, "gpu-test", tmp_path), re.MULTILINE)


def test_the_oldest_pytorch_is_that_of_the_requirements(python: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    text = printed(python, "test-floor", tmp_path)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = dict(re.findall(r'"(torch|torchvision)>=([\d.]+)"', project))
    assert len(oldest) == 2
    assert all(f"'{name}=={version}.*'" in text for name, version in oldest.items())
    assert "-floor/bin/python -m pytest tests/test_wheel.py" in text
