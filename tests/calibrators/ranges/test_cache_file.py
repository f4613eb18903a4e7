from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibrators.errors import CacheError
from calibrators.ranges.cache_file import (
    CalibrationCache,
    cache_from_ranges,
    cache_from_text,
    ranges_from_cache,
    save_cache,
    text_from_cache,
)
from calibrators.ranges.ranges import Ranges, save_ranges

VERSION = 101601
RANGES = Ranges({"input": 127.0, "layer1: conv 2": 63.5}, "entropy", 512, 7, "zscgan", "f" * 64)
# 1.0 is 3f800000 and 0.5 is 3f000000
TEXT = "TRT-101601-EntropyCalibration2\ninput: 3f800000\nlayer1: conv 2: 3f000000\n"
SCALES = st.floats(2.0**-126, 2.0**120, width=32)
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=": "), min_size=1)


def test_by_hand() -> None:
    assert text_from_cache(cache_from_ranges(RANGES, version=VERSION)) == TEXT
    assert cache_from_text(TEXT) == CalibrationCache({"input": 1.0, "layer1: conv 2": 0.5}, VERSION)
    assert cache_from_text(TEXT).version == 101601


def test_max_is_the_min_max_calibrator() -> None:
    text = text_from_cache(cache_from_ranges(replace(RANGES, algorithm="max"), version=80503))
    assert text.startswith("TRT-80503-MinMaxCalibration\n")
    assert cache_from_text(text).algorithm == "max"


@pytest.mark.parametrize(
    "text", [TEXT.replace("\n", "\r\n"), TEXT + "\n", TEXT[:-1], TEXT.replace("3f8", "3F8")]
)
def test_line_ends_and_case_do_not_matter(text: str) -> None:
    assert cache_from_text(text).scales == {"input": 1.0, "layer1: conv 2": 0.5}


@given(st.dictionaries(NAMES, SCALES, min_size=1))
def test_any_cache_comes_back(scales: dict[str, float]) -> None:
    cache = CalibrationCache(scales, VERSION)
    assert cache_from_text(text_from_cache(cache)) == cache


HEADER = "TRT-101601-EntropyCalibration2\n"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (HEADER, "only a header"),
        ("input: 3f800000\n", "begin with TRT-<version>-EntropyCalibration2"),
        ("TRT-8601-Foo\ninput: 3f800000\n", "begin with TRT"),
        (" " + TEXT, "begin with TRT"),
        (HEADER + "input 3f800000\n", "'tensor name: hex8' on line 2"),
        (HEADER + ": 3f800000\n", "'tensor name: hex8' on line 2"),
        (HEADER + "input: 3f8000\n", "8 hexadecimal digits for 'input' on line 2"),
        (HEADER + "input: 0.0078125\n", "8 hexadecimal digits"),
        (HEADER + "input: 3f80000g\n", "8 hexadecimal digits"),
        (HEADER + "a: 3f800000\na: 3f800000\n", "line 3 of .* repeats 'a'"),
        (HEADER + "a: 00000000\n", "got 0.0"),
        (HEADER + "a: 7f800000\n", "got inf"),
        (HEADER + "a: 7fc00000\n", "got nan"),
        (HEADER + "a: bf800000\n", "got -1.0"),
        (HEADER + "a: 00000001\n", "normal for 'a'"),
        (HEADER + "a: 7f7fffff\n", "finite and normal for 'a'"),
    ],
)
def test_broken_text_is_refused(text: str, match: str) -> None:
    with pytest.raises(CacheError, match=match):
        cache_from_text(text)


@pytest.mark.parametrize("name", ["", "a\nb", "a\r"])
def test_a_name_that_does_not_fit_a_line_is_refused(name: str) -> None:
    with pytest.raises(CacheError, match="on one line"):
        text_from_cache(CalibrationCache({name: 1.0}, VERSION))


def saved(folder: Path, ranges: Ranges = RANGES) -> Path:
    save_ranges(ranges, folder / "calibration.json")
    return save_cache(ranges, folder / "calibration.cache", version=VERSION)


def test_a_pair_gives_the_unrounded_ranges(tmp_path: Path) -> None:
    ranges = replace(RANGES, amax={"input": 0.1, "relu": 1 / 3})
    path = saved(tmp_path, ranges)
    assert ranges_from_cache(path, fingerprint="f" * 64, algorithm="entropy") == ranges
    assert ranges_from_cache(tmp_path / "calibration.json", fingerprint="f" * 64) == ranges


@pytest.mark.parametrize("name", ["calibration.cache", "calibration.json"])
def test_another_fingerprint_is_refused(tmp_path: Path, name: str) -> None:
    saved(tmp_path)
    with pytest.raises(CacheError, match="--recalibrate"):
        ranges_from_cache(tmp_path / name, fingerprint="0" * 64)


def test_another_calibrator_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(CacheError, match="--calibrator mse, got entropy"):
        ranges_from_cache(path, fingerprint="f" * 64, algorithm="mse")


def test_a_cache_that_was_exchanged_under_its_json_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    path.write_text(TEXT.replace("3f8", "3f9"))
    with pytest.raises(CacheError, match="they differ"):
        ranges_from_cache(path, fingerprint="f" * 64)


def test_a_broken_json_beside_the_cache_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    (tmp_path / "calibration.json").write_text("{")
    with pytest.raises(CacheError, match="broken"):
        ranges_from_cache(path, fingerprint="f" * 64)


@pytest.mark.parametrize("beside", [None, '{"model": "resnet"}'])
def test_a_cache_alone_is_read_and_its_fingerprint_is_unknown(tmp_path: Path, beside: str | None) -> None:
    path = tmp_path / "foreign.cache"
    path.write_text(TEXT)
    if beside is not None:
        (tmp_path / "foreign.json").write_text(beside)
    ranges = ranges_from_cache(path, fingerprint="f" * 64)
    assert ranges == Ranges(RANGES.amax, "entropy", None, None, "cache", None)
    assert save_cache(ranges, tmp_path / "copy.cache", version=VERSION).read_text() == TEXT
    with pytest.raises(CacheError, match="expected a range for each of 1 tensors"):
        ranges.selected(["conv1"])


def test_a_min_max_cache_alone_is_no_entropy_cache(tmp_path: Path) -> None:
    path = save_cache(replace(RANGES, algorithm="max"), tmp_path / "foreign.cache", version=VERSION)
    with pytest.raises(CacheError, match="--calibrator entropy, got MinMaxCalibration"):
        ranges_from_cache(path, fingerprint="f", algorithm="entropy")


@pytest.mark.parametrize(("data", "match"), [(None, "No such file"), (b"\xff\xfe", "to be text")])
def test_a_file_that_is_no_text_or_not_there(tmp_path: Path, data: bytes | None, match: str) -> None:
    path = tmp_path / "calibration.cache"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(CacheError, match=match):
        ranges_from_cache(path, fingerprint="f")
