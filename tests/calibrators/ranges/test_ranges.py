import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibrators.errors import CacheError
from calibrators.ranges.ranges import Ranges, load_ranges, save_ranges
from calibrators.ranges.scales import MAX_AMAX, MIN_AMAX

RANGES = Ranges({"input": 2.64, "layer1: relu": 0.1}, "entropy", 512, 7, "zscgan", "f" * 64)


def test_round_trip(tmp_path: Path) -> None:
    path = save_ranges(RANGES, tmp_path / "calibration.json")
    assert load_ranges(path) == RANGES
    assert load_ranges(path, fingerprint="f" * 64, algorithm="entropy") == RANGES
    assert json.loads(path.read_text())["schema"] == 1


def test_what_nobody_knows_is_kept(tmp_path: Path) -> None:
    ranges = Ranges({"x": 1.0}, "max", None, None, "cache", None)
    assert load_ranges(save_ranges(ranges, tmp_path / "a.json")) == ranges


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), st.floats(MIN_AMAX, MAX_AMAX), min_size=1))
def test_any_name_and_any_valid_amax_come_back(
    tmp_path_factory: pytest.TempPathFactory, amax: dict[str, float]
) -> None:
    path = tmp_path_factory.mktemp("ranges") / "calibration.json"
    # A lone surrogate can't be written as UTF-8; no ONNX name has one.
    amax = {name.encode(errors="ignore").decode(): value for name, value in amax.items()}
    ranges = replace(RANGES, amax=amax)
    assert load_ranges(save_ranges(ranges, path)) == ranges


@pytest.mark.parametrize("amax", [0.0, -1.0, math.nan, math.inf, 1e-40, 1e39])
def test_an_amax_without_a_scale_is_refused(amax: float) -> None:
    with pytest.raises(CacheError, match="for tensor 'conv', got"):
        replace(RANGES, amax={"conv": amax})


def test_no_ranges_are_refused() -> None:
    with pytest.raises(CacheError, match="at least one tensor"):
        replace(RANGES, amax={})


def test_the_ranges_are_a_copy() -> None:
    amax = {"x": 1.0}
    ranges = replace(RANGES, amax=amax)
    amax["x"] = 2.0
    assert ranges.amax["x"] == 1.0


def test_selected() -> None:
    assert list(RANGES.selected(["layer1: relu"]).amax) == ["layer1: relu"]
    with pytest.raises(
        CacheError, match=r"none for 1: inputs \(nearest to 'inputs': input\); .* --recalibrate"
    ):
        RANGES.selected(["input", "inputs"])


def test_another_fingerprint_or_calibrator_is_refused(tmp_path: Path) -> None:
    path = save_ranges(RANGES, tmp_path / "calibration.json")
    with pytest.raises(CacheError, match=r"for these weights .*--recalibrate"):
        load_ranges(path, fingerprint="0" * 64)
    with pytest.raises(CacheError, match=r"--calibrator mse, got entropy"):
        load_ranges(path, algorithm="mse")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="can't be read: No such file"):
        load_ranges(tmp_path / "none.json")


DOCUMENT = {
    "kind": "zscgan-convert calibration", "schema": 1, "amax": {"x": 1.0}, "algorithm": "max", "samples": 1,
    "seed": 0, "source": "images", "fingerprint": "f",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "broken"),
        ('{"kind": ', "broken"),
        ("\xff", "some other file|broken"),
        ("[]", "some other file"),
        ("[" * 100_000, "broken"),
        (json.dumps(DOCUMENT | {"amax": {"x": 10**400}}), "valid 'amax', got {'x': 1000"),
        ('{"a": 1}', "some other file"),
        (json.dumps(DOCUMENT | {"schema": 2}), "schema 1, got 2"),
        (json.dumps(DOCUMENT | {"amax": [1.0]}), "valid 'amax'"),
        (json.dumps(DOCUMENT | {"amax": {"x": "1"}}), "valid 'amax'"),
        (json.dumps(DOCUMENT | {"amax": {"x": True}}), "valid 'amax'"),
        (json.dumps(DOCUMENT | {"amax": {"x": math.nan}}), "for tensor 'x', got nan"),
        (json.dumps(DOCUMENT | {"algorithm": "kl"}), "valid 'algorithm'"),
        (json.dumps(DOCUMENT | {"algorithm": ["max"]}), "valid 'algorithm'"),
        (json.dumps(DOCUMENT | {"samples": 1.5}), "valid 'samples'"),
        (json.dumps({key: value for key, value in DOCUMENT.items() if key != "seed"}), "valid 'seed'"),
        (json.dumps(DOCUMENT | {"source": "noise"}), "valid 'source'"),
        (json.dumps(DOCUMENT | {"fingerprint": 1}), "valid 'fingerprint'"),
    ],
)
def test_a_broken_or_foreign_file_is_refused(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(CacheError, match=match):
        load_ranges(path)
