"""The files of a TensorRT calibrator: its cache, and ``calibration.json`` beside it, which says for what it is."""

from dataclasses import dataclass
from pathlib import Path

from calibrators.errors import CacheError
from calibrators.options import Algorithm
from calibrators.ranges.cache_file import (
    MINMAX_CALIBRATOR,
    CalibrationCache,
    cache_from_ranges,
    cache_from_text,
    load_cache,
    ranges_from_cache,
    text_from_cache,
)
from calibrators.ranges.ranges import Ranges, holds_ranges, save_ranges
from zscgan_common.files import write_atomic

REPAIR = "in Python: recalibrate=True, or another path for cache="


@dataclass(frozen=True)
class CacheHeader:
    """What TensorRT writes on the first line, and expects there: its calibrator and its version number."""

    calibrator: str
    version: int

    def __str__(self) -> str:
        return f"TRT-{self.version}-{self.calibrator}"

    @property
    def algorithm(self) -> Algorithm:
        """Our name of what the calibrator does."""
        return "max" if self.calibrator == MINMAX_CALIBRATOR else "entropy"

    def check(self, cache: CalibrationCache, what: str) -> None:
        """Raise CacheError for a cache with another header, which TensorRT would ignore."""
        if (cache.calibrator, cache.version) != (self.calibrator, self.version):
            raise CacheError(
                f"expected {what} to begin with {self}, as the installed TensorRT and this calibrator do, got "
                f"{CacheHeader(cache.calibrator, cache.version)}; calibrate again ({REPAIR})"
            )


def trusted_ranges(path: Path, fingerprint: str, header: CacheHeader) -> Ranges | None:
    """Ranges of the cache at ``path`` that TensorRT may use for this model, or None where there is no file.

    Raises CacheError for a cache of another model, calibrator or version, and for one without our JSON
    beside it: nobody knows which weights it is for.
    """
    if not path.exists():
        return None
    try:
        ranges = ranges_from_cache(path, fingerprint=fingerprint, algorithm=header.algorithm)
        header.check(load_cache(path), str(path))
    except CacheError as error:
        raise CacheError(f"{error} ({REPAIR})") from error
    if ranges.fingerprint is None:
        raise CacheError(
            f"expected {json_beside(path).name} beside {path}, as a cache alone doesn't say which weights it "
            f"is for; calibrate again ({REPAIR})"
        )
    return ranges


def json_beside(path: Path) -> Path:
    """Where the ranges of a cache stand."""
    return path.with_suffix(".json")


def check_free(path: Path) -> None:
    """Raise CacheError where writing a cache to ``path`` would destroy a file that isn't ours."""
    beside = json_beside(path)
    if path == beside:
        raise CacheError(f"expected the path of a cache, got {path}; type for example cache='model.cache'")
    if beside.exists() and not holds_ranges(beside):
        raise CacheError(f"{beside} would be overwritten and isn't ours; give cache= another path")


def cache_from_tensorrt(data: bytes, header: CacheHeader) -> CalibrationCache:
    """What TensorRT calibrated. Raises CacheError for a scale that is 0 or not finite, or another header."""
    what = "TensorRT's calibration"
    try:
        cache = cache_from_text(data.decode(), what)
    except UnicodeDecodeError as error:
        raise CacheError(f"expected {what} to be text, got {data[:40]!r} ({error.reason})") from error
    except CacheError as error:
        raise CacheError(
            f"{error} and more or other samples: a tensor that is zero on all of them has no scale"
        ) from error
    header.check(cache, what)
    return cache


def save_pair(ranges: Ranges, text: bytes, path: Path) -> None:
    """Write ``calibration.json``, then the cache. Raises CacheError where a file can't be written.

    A stop between the two leaves the JSON with an older cache or with none. The older cache has other scales,
    so that ``ranges_from_cache`` refuses the pair; the JSON alone counts as no cache.
    """
    try:
        save_ranges(ranges, json_beside(path))
        write_atomic(path, text)
    except OSError as error:
        raise CacheError(
            f"expected to write {path} and {json_beside(path).name}, but that failed: {error.strerror}; give "
            "cache= another path"
        ) from error


def text_from_ranges(ranges: Ranges, version: int) -> bytes:
    """The cache of checked ranges, as TensorRT reads it."""
    return text_from_cache(cache_from_ranges(ranges, version=version)).encode()
