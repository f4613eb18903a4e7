"""The TensorRT of ``calibration.cache``: the one that was asked for, the installed one, or an assumption."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from converter.environment.cache_version import ASSUMED, cache_version
from converter.errors import OptionsError
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from tests.converter.system_files import jetson


@pytest.fixture
def python_has(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Package -> version, of those that Python finds; empty at first."""
    versions: dict[str, str] = {}

    def distributions(name: str) -> Iterator[SimpleNamespace]:
        return (SimpleNamespace(version=version) for package, version in versions.items() if package == name)

    monkeypatch.setattr(importlib.metadata, "distributions", distributions)
    return versions


@pytest.mark.parametrize(
    ("installed", "number"),
    [
        ({"tensorrt": "10.9.0.34"}, 100900),
        ({"tensorrt-cu13": "10.16.2.5"}, 101602),
        ({"tensorrt": "11.0.0", "tensorrt-cu12": "10.3.0"}, 100300),
    ],
)
def test_the_installed_one(
    python_has: dict[str, str], tmp_path: Path, installed: dict[str, str], number: int
) -> None:
    python_has |= installed
    assert cache_version(None, tmp_path)[1:] == (number, False)


def test_the_one_of_the_system_where_python_has_none(python_has: dict[str, str], tmp_path: Path) -> None:
    root = jetson(tmp_path)
    assert cache_version(None, root) == ("10.3.0.30", 100300, False)
    python_has["tensorrt"] = "10.13.3"
    assert cache_version(None, root) == ("10.13.3", 101303, False)
    assert cache_version("10.7.0", root) == ("10.7.0", 100700, False)


def test_an_assumption_is_marked(python_has: dict[str, str], tmp_path: Path) -> None:
    assert cache_version(None, tmp_path) == (ASSUMED, 101601, True)
    python_has["tensorrt"] = "11.0.0"
    assert cache_version(None, tmp_path) == (ASSUMED, 101601, True)


@pytest.mark.parametrize("version", ["11.0.0", "8.6.1", "10.3", "10.3.0x", "ten"])
def test_a_version_that_reads_no_cache_is_refused(version: str) -> None:
    with pytest.raises(OptionsError, match=r"expected --trt-version of a TensorRT 10.*such as 10\.3\.0, got"):
        ConvertOptions(ModelOptions("a.pth"), trt_version=version)
