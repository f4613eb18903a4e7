"""Which TensorRT ``calibration.cache`` is written for: TensorRT ignores the cache of another version."""

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from calibrators.ranges.cache_file import header_version
from converter.environment.system import system_packages

ASSUMED = "10.16.1"
"""Taken where no TensorRT 10 is installed and ``--trt-version`` names none."""

_PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")


class CacheVersion(NamedTuple):
    """A version of TensorRT 10, its number in a cache's first line, and whether it is only assumed."""

    version: str
    number: int
    assumed: bool = False


def cache_version(asked: str | None, root: Path | None = None) -> CacheVersion:
    """The version that was asked for, else that of the installed TensorRT 10, else ``ASSUMED``.

    TensorRT itself isn't imported: Python's packages come first, then Debian's of the system under ``root``.
    """
    for version in [asked] if asked is not None else _installed(root):
        number = header_version(version)
        if number is not None:
            return CacheVersion(version, number)
    number = header_version(ASSUMED)
    assert number is not None
    return CacheVersion(ASSUMED, number, assumed=True)


def _installed(root: Path | None) -> Iterator[str]:
    for package in _PACKAGES:
        yield from (found.version for found in importlib.metadata.distributions(name=package))
    of_system = system_packages(root).tensorrt
    if of_system is not None:
        yield of_system
