"""Metadata beside the weights: passed over where the allow-list has it, refused elsewhere, never run."""

import argparse
import collections
import datetime
import fractions
import pathlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from calibrators.data.input_spec import InputSpec
from converter.errors import LoadError
from tests.converter.load.test_model import CODE, Tiny, assert_same_network, load, trained

METADATA = {
    "numpy scalars": [
        np.float64(0.93),
        np.float32(1),
        np.int64(7),
        np.bool_(True),
        np.str_("a"),
        np.datetime64("2024"),
    ],
    "numpy dtypes": [np.dtype("f4"), np.float16, np.dtype([("a", "i4"), ("b", "O")]), type(np.dtype("f8"))],
    "numpy arrays": [np.arange(6).reshape(2, 3), np.array(["a", None], dtype=object), np.zeros(0)],
    "random state": np.random.RandomState(0).get_state(),
    "paths": [Path("runs/1"), pathlib.PurePosixPath("/a"), pathlib.PureWindowsPath("c:\\a")],
    "dates": [
        datetime.datetime(2024, 5, 17, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=2))),
        datetime.datetime.now(datetime.timezone.utc),
        datetime.date(2024, 5, 17),
        datetime.time(3, 4),
        datetime.timedelta(1),
    ],
    "defaultdict": collections.defaultdict(list, {"loss": [0.1, 0.2]}),
    "defaultdict of numbers": collections.defaultdict(float, {"a": 1.0}),
    "empty defaultdict": collections.defaultdict(collections.OrderedDict),
    "deque": [collections.deque([1, 2, 3], maxlen=5), collections.deque("ab")],
    "counter": collections.Counter("aab"),
    "other collections": [
        collections.ChainMap({"a": 1}),
        collections.UserDict(a=1),
        collections.UserList([1]),
    ],
    "ordered": collections.OrderedDict(a=1),
    "size": torch.Size([1, 3, 32, 32]),
    "sets": [{1, 2}, frozenset({"a"})],
    "types": [int, str],
    "namespace": argparse.Namespace(out=Path("runs"), lr=np.float32(0.1)),
}


@pytest.fixture
def network() -> Tiny:
    return trained()


def saved_beside(network: Tiny, extra: object, folder: Path, *, new_format: bool = True) -> Path:
    (folder / "nets.py").write_text(CODE)
    content = {"state_dict": network.state_dict(), "extra": extra, "epoch": 3}
    torch.save(content, folder / "net.pth.tar", _use_new_zipfile_serialization=new_format)
    return folder / "net.pth.tar"


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("kind", METADATA)
def test_metadata_of_the_allow_list(kind: str, new_format: bool, network: Tiny, tmp_path: Path) -> None:
    path = saved_beside(network, METADATA[kind], tmp_path, new_format=new_format)
    assert_same_network(load(path, f"{tmp_path / 'nets.py'}:Tiny"), network)


def rewritten(path: Path, old: bytes, new: bytes) -> Path:
    """The file with another name in its pickle, as another machine or version would have written it."""
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


@pytest.mark.parametrize(
    ("extra", "ours", "theirs"),
    [
        (pathlib.PurePosixPath("a"), r"cpathlib\S*\nPurePosixPath\n", "cpathlib\nWindowsPath\n"),
        (pathlib.PurePosixPath("a"), r"cpathlib\S*\nPurePosixPath\n", "cpathlib._local\nPosixPath\n"),
        (np.float64(1), r"cnumpy\S*\nscalar\n", "cnumpy.core.multiarray\nscalar\n"),
        (np.float64(1), r"cnumpy\S*\nscalar\n", "cnumpy._core.multiarray\nscalar\n"),
    ],
)
def test_names_of_other_machines_and_versions(
    extra: object, ours: str, theirs: str, network: Tiny, tmp_path: Path
) -> None:
    path = saved_beside(network, extra, tmp_path, new_format=False)
    content, found = re.subn(ours.encode(), theirs.encode(), path.read_bytes())
    assert found == 1
    path.write_bytes(content)
    assert_same_network(load(path, f"{tmp_path / 'nets.py'}:Tiny"), network)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has such paths")
def test_trusted_path_of_another_system(network: Tiny, tmp_path: Path) -> None:
    path = saved_beside(network, pathlib.PurePosixPath("a"), tmp_path, new_format=False)
    path.write_bytes(re.sub(rb"cpathlib\S*\nPurePosixPath\n", b"cpathlib\nWindowsPath\n", path.read_bytes()))
    with pytest.raises(LoadError, match=r"holds an object of another system \(.*WindowsPath.*state_dict"):
        load(path, trust_pickle=True)


def test_bytes_that_claim_to_be_a_pointer(network: Tiny, tmp_path: Path) -> None:
    """An object's dtype with 8 bytes in the file: numpy itself would follow them."""
    path = saved_beside(network, np.float64(1), tmp_path, new_format=False)
    path.write_bytes(path.read_bytes().replace(b"X\x02\x00\x00\x00f8", b"X\x02\x00\x00\x00O8"))
    assert_same_network(load(path, f"{tmp_path / 'nets.py'}:Tiny"), network)


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (fractions.Fraction(1, 3), "fractions.Fraction"),
        (collections.defaultdict(fractions.Fraction), "fractions.Fraction"),
        ({"spec": InputSpec((3, 8, 8), (0.0,), (1.0,))}, "calibrators.data.input_spec.InputSpec"),
        (np.array([fractions.Fraction(1, 3)], dtype=object), "fractions.Fraction"),
        (np.random.RandomState(0), r"numpy.random._pickle.__randomstate_ctor"),
        ([getattr], "getattr"),
    ],
)
def test_any_other_object_is_refused(extra: object, name: str, network: Tiny, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=rf"holds the Python object {name}\b.*add --trust-pickle"):
        load(saved_beside(network, extra, tmp_path))
