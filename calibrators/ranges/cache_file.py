"""TensorRT's calibration cache, written and read.

The file is text: a header ``TRT-<version>-<calibrator>``, then a line ``tensor name: hex8`` for each tensor,
where hex8 is the big-endian IEEE-754 float32 of ``amax / 127``. It says nothing about the weights that it was
made for. That stands in the ``calibration.json`` beside it (same name, other suffix), and the pair is only
used when both agree.
"""

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from calibrators.errors import CacheError
from calibrators.options import Algorithm
from calibrators.ranges.ranges import Ranges, holds_ranges, load_ranges
from calibrators.ranges.scales import amax_from_scale, is_valid_amax, scale_from_amax
from zscgan_common.files import write_atomic

ENTROPY_CALIBRATOR = "EntropyCalibration2"
MINMAX_CALIBRATOR = "MinMaxCalibration"

_HEADER = re.compile(rf"TRT-(\d+)-({ENTROPY_CALIBRATOR}|{MINMAX_CALIBRATOR})")
_REPAIR = "calibrate again with --recalibrate"


@dataclass(frozen=True)
class CalibrationCache:
    """Content of a TensorRT calibration cache: float32 scales by tensor name, in the order of the file.

    TensorRT ignores the cache of another ``version`` than its own (``header_version``).
    """

    scales: dict[str, float]
    version: int
    calibrator: str = ENTROPY_CALIBRATOR

    @property
    def algorithm(self) -> Algorithm:
        """``max`` for the min-max calibrator, else ``entropy``: all that the header tells."""
        return "max" if self.calibrator == MINMAX_CALIBRATOR else "entropy"


def cache_from_ranges(ranges: Ranges, *, version: int) -> CalibrationCache:
    """The cache that carries these ranges; its calibrator is min-max for ``max``, else entropy 2."""
    calibrator = MINMAX_CALIBRATOR if ranges.algorithm == "max" else ENTROPY_CALIBRATOR
    return CalibrationCache(
        {name: scale_from_amax(amax) for name, amax in ranges.amax.items()}, version, calibrator
    )


def text_from_cache(cache: CalibrationCache) -> str:
    """The file's text. Raises CacheError for a name that can't stand on a line."""
    lines = [f"TRT-{cache.version}-{cache.calibrator}"]
    for name, scale in cache.scales.items():
        if not name or name.splitlines() != [name]:
            raise CacheError(f"expected a tensor name on one line, got {name!r}; rename it in the ONNX graph")
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "\n".join(lines) + "\n"


def cache_from_text(text: str, path: Path | str = "the calibration cache") -> CalibrationCache:
    """Parse a cache; ``path`` is for the messages.

    Raises CacheError for an empty file, another header, a line or a hexadecimal number that is broken, a
    tensor that comes twice, no tensor at all, and a scale that is 0, negative, infinite, NaN or subnormal.
    """
    if not text.strip():
        raise CacheError(f"expected a TensorRT calibration cache, but {path} is empty; {_REPAIR}")
    header, *lines = (line.removesuffix("\r") for line in text.split("\n"))
    match = _HEADER.fullmatch(header)
    if match is None:
        raise CacheError(
            f"expected {path} to begin with TRT-<version>-{ENTROPY_CALIBRATOR} or -{MINMAX_CALIBRATOR}, "
            f"got {header[:60]!r}; check --calibration-cache"
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        name, scale = _entry(line, f"line {number} of {path}")
        if name in scales:
            raise CacheError(
                f"expected each tensor once, but line {number} of {path} repeats '{name}'; {_REPAIR}"
            )
        scales[name] = scale
    if not scales:
        raise CacheError(
            f"expected the scale of at least one tensor, but {path} has only a header; {_REPAIR}"
        )
    return CalibrationCache(scales, int(match[1]), match[2])


def save_cache(ranges: Ranges, path: Path | str, *, version: int) -> Path:
    """Write the ranges as a TensorRT calibration cache."""
    return write_atomic(path, text_from_cache(cache_from_ranges(ranges, version=version)))


def header_version(version: str) -> int | None:
    """``10.16.1.11`` as TensorRT writes it into a cache: ``major * 10000 + minor * 100 + patch``, 101601.

    None for another major version than 10, which has no caches.
    """
    numbers = re.match(r"10\.(\d+)\.(\d+)\b", version)
    return None if numbers is None else 100000 + 100 * int(numbers[1]) + int(numbers[2])


def load_cache(path: Path) -> CalibrationCache:
    """The file's content, whatever weights it was made for. Raises CacheError."""
    return cache_from_text(_read_text(path), path)


def ranges_from_cache(path: Path | str, *, fingerprint: str, algorithm: Algorithm | None = None) -> Ranges:
    """Ranges from a cache that are safe to use with the weights of this ``fingerprint``.

    - A ``.json`` is our own file: its fingerprint must be this one.
    - A cache with our JSON beside it: the fingerprint must be this one and the scales must be those of the
      JSON (else one of the two was exchanged). The ranges come from the JSON, whose amax is not rounded.
    - A cache that stands alone (TensorRT's own, for example) says nothing about its weights. It is read, with
      ``source="cache"`` and ``fingerprint=None`` for the caller to see and to tell; ``Ranges.selected`` then
      refuses one without a range for each tensor of the model.

    With ``algorithm`` (``--calibrator``, where the user gave it), ranges by another one are refused; a cache
    alone only tells ``max`` from the rest. Raises CacheError. ``--recalibrate`` means: don't call this,
    calibrate and overwrite.
    """
    path = Path(path)
    if path.suffix == ".json":
        return load_ranges(path, fingerprint=fingerprint, algorithm=algorithm)
    cache = load_cache(path)
    beside = path.with_suffix(".json")
    if holds_ranges(beside):
        ranges = load_ranges(beside, fingerprint=fingerprint, algorithm=algorithm)
        if cache_from_ranges(ranges, version=cache.version).scales != cache.scales:
            raise CacheError(
                f"expected {path} to hold the scales of {beside}, but they differ: one of the two is from "
                f"another run; {_REPAIR}, or move {beside.name} away to use the cache alone"
            )
        return ranges
    if algorithm is not None and (algorithm == "max") != (cache.algorithm == "max"):
        raise CacheError(
            f"expected {path} to fit --calibrator {algorithm}, got {cache.calibrator}; "
            f"type --calibrator {cache.algorithm} to use it, or --recalibrate to replace it"
        )
    amax = {name: amax_from_scale(scale) for name, scale in cache.scales.items()}
    return Ranges(amax, algorithm or cache.algorithm, None, None, "cache", None)


def _read_text(path: Path) -> str:
    """The file's text with its line ends as they are."""
    try:
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise CacheError(
            f"expected a calibration cache at {path}, but it can't be read: {error.strerror}; "
            "check --calibration-cache, or leave it out to calibrate"
        ) from error
    except UnicodeDecodeError as error:
        raise CacheError(f"expected {path} to be text, but it is not ({error.reason}); {_REPAIR}") from error


def _entry(line: str, where: str) -> tuple[str, float]:
    """Tensor name and scale of one line; the name may hold ': ' itself."""
    name, separator, digits = line.rpartition(": ")
    if not separator or not name:
        raise CacheError(f"expected 'tensor name: hex8' on {where}, got {line[:80]!r}; {_REPAIR}")
    if re.fullmatch(r"[0-9a-fA-F]{8}", digits) is None:
        raise CacheError(
            f"expected 8 hexadecimal digits for '{name}' on {where}, got {digits[:40]!r}: the file is cut "
            f"off or was edited; {_REPAIR}"
        )
    scale: float = struct.unpack(">f", bytes.fromhex(digits))[0]
    if not is_valid_amax(amax_from_scale(scale)):
        raise CacheError(
            f"expected a scale that is positive, finite and normal for '{name}' on {where}, "
            f"got {scale} ({digits}); {_REPAIR}"
        )
    return name, scale
