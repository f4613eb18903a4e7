"""Ranges: what calibration found, for which weights, and their file ``calibration.json``."""

import difflib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from calibrators.errors import CacheError
from calibrators.options import ALGORITHMS, Algorithm
from calibrators.ranges.scales import MAX_AMAX, MIN_AMAX, is_valid_amax
from zscgan_common.files import write_atomic
from zscgan_common.text import cut

SCHEMA = 1
KIND = "zscgan-convert calibration"

Source = Literal["zscgan", "procedural", "images", "cache"]


@dataclass(frozen=True)
class Ranges:
    """Largest magnitude ``amax`` of each activation by tensor name.

    ``source`` is where the inputs came from: ``zscgan`` (synthetic), ``procedural``, ``images`` (real) or ``cache`` (a
    TensorRT cache that stood alone; then ``samples``, ``seed`` and ``fingerprint`` are None, as nobody knows
    them). ``fingerprint`` is that of the weights. Raises CacheError for an amax whose scale float32 can't
    hold as a normal number.
    """

    amax: Mapping[str, float]
    algorithm: Algorithm
    samples: int | None
    seed: int | None
    source: Source
    fingerprint: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "amax", dict(self.amax))
        if not self.amax:
            raise CacheError(
                "expected the range of at least one tensor, got none; calibrate again with --recalibrate"
            )
        for name, amax in self.amax.items():
            if not is_valid_amax(amax):
                raise CacheError(
                    f"expected an amax between {MIN_AMAX:.3g} and {MAX_AMAX:.3g} for tensor '{name}', "
                    f"got {amax}; calibrate again with --recalibrate"
                )

    def selected(self, names: Iterable[str]) -> "Ranges":
        """The ranges of exactly these tensors, in this order. Raises CacheError with those that have none."""
        names = list(names)
        missing = [name for name in names if name not in self.amax]
        if missing:
            near = difflib.get_close_matches(missing[0], list(self.amax), n=3)
            hint = f" (nearest to '{missing[0]}': {', '.join(near)})" if near else ""
            raise CacheError(
                f"expected a range for each of {len(names)} tensors, got none for {len(missing)}: "
                f"{cut(missing, 5)}{hint}; "
                "the ranges belong to another model, so calibrate again with --recalibrate"
            )
        return replace(self, amax={name: self.amax[name] for name in names})


def save_ranges(ranges: Ranges, path: Path | str) -> Path:
    """Write ``calibration.json``; ``load_ranges`` gives back an equal object."""
    document = {"kind": KIND, "schema": SCHEMA, **asdict(ranges)}
    return write_atomic(path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def load_ranges(path: Path | str, *, fingerprint: str | None = None, algorithm: str | None = None) -> Ranges:
    """Ranges from ``calibration.json``.

    With ``fingerprint``, the file must have been made for these weights; with ``algorithm``, by that
    calibrator. Raises CacheError for a file that is missing, broken, of another kind or schema, or made for
    something else.
    """
    path = Path(path)
    ranges = _ranges_from_document(_read_document(path), path)
    check_made_for(ranges, path, fingerprint=fingerprint, algorithm=algorithm)
    return ranges


def check_made_for(ranges: Ranges, path: Path, *, fingerprint: str | None, algorithm: str | None) -> None:
    """Raise CacheError where ranges belong to other weights or another calibrator than was asked for."""
    if fingerprint is not None and ranges.fingerprint != fingerprint:
        raise CacheError(
            f"expected {path} to hold ranges for these weights and this input (fingerprint {fingerprint[:12]}…), got "
            f"ranges for others ({(ranges.fingerprint or 'unknown')[:12]}…); calibrate again with "
            "--recalibrate, or give another --calibration-cache"
        )
    if algorithm is not None and ranges.algorithm != algorithm:
        raise CacheError(
            f"expected {path} to hold ranges of --calibrator {algorithm}, got {ranges.algorithm}; "
            f"type --calibrator {ranges.algorithm} to use them, or --recalibrate to replace them"
        )


def holds_ranges(path: Path) -> bool:
    """Whether a file is ours, or broken so that nobody can tell; False for other JSON or no file."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return path.exists()
    return isinstance(document, dict) and document.get("kind") == KIND


def _read_document(path: Path) -> dict[str, Any]:
    """The JSON object in a file of our kind and schema."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CacheError(
            f"expected a calibration file at {path}, but it can't be read: {error.strerror}; "
            "check --calibration-cache, or leave it out to calibrate"
        ) from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or brackets thousands deep
        raise CacheError(
            f"expected {path} to be JSON, but it is broken: {error}; calibrate again with --recalibrate"
        ) from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise CacheError(
            f'expected {path} to say "kind": "{KIND}", but it is some other file; check --calibration-cache'
        )
    if document.get("schema") != SCHEMA:
        raise CacheError(
            f"expected {path} to have schema {SCHEMA}, got {document.get('schema')!r}; it was written by "
            "another version of zscgan-convert, so calibrate again with --recalibrate"
        )
    return document


def _ranges_from_document(document: dict[str, Any], path: Path) -> Ranges:
    """Ranges from a document of our schema, each field checked."""

    def field(name: str, valid: bool) -> Any:
        if not valid:
            raise CacheError(
                f"expected {path} to have a valid '{name}', got {str(document.get(name))[:80]}; "
                "calibrate again with --recalibrate"
            )
        return document[name]

    amax, algorithm, source = document.get("amax"), document.get("algorithm"), document.get("source")
    numbers = field("amax", isinstance(amax, dict) and all(_is_number(value) for value in amax.values()))
    return Ranges(
        amax={name: float(value) for name, value in numbers.items()},
        algorithm=field("algorithm", algorithm in ALGORITHMS),
        samples=field("samples", _is_whole_or_none(document.get("samples", ""))),
        seed=field("seed", _is_whole_or_none(document.get("seed", ""))),
        source=field("source", source in get_args(Source)),
        fingerprint=field("fingerprint", isinstance(document.get("fingerprint", 0), str | None)),
    )


def _is_number(value: object) -> bool:
    """Whether a value of JSON is a number that a float can hold."""
    if isinstance(value, int) and not isinstance(value, bool):
        return abs(value) <= sys.float_info.max
    return isinstance(value, float)


def _is_whole_or_none(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool))
