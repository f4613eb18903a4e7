"""Files that are no checkpoint, or would run code: each refused with its own message."""

import importlib
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

from converter.errors import LoadError
from converter.load.state_dict import object_from_file
from tests.converter.load.test_model import Tiny, assert_same_network, load, saved, trained

pytestmark = pytest.mark.slow


@pytest.fixture
def network() -> Tiny:
    return trained()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty \(0 bytes\); expected a PyTorch state_dict"),
        (os.urandom(4) + b"\0" * 4 + b"noise" * 20, "truncated, damaged or no checkpoint"),
        (b"hello world, this is text", "truncated, damaged or no checkpoint"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, "is a JPEG image"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer: run `git lfs pull`"),
        (b"<!DOCTYPE html><html></html>", "is a web page"),
        (b"PK\x03\x04broken", "is truncated or damaged .*; copy or download it again"),
    ],
)
def test_files_that_are_no_checkpoint(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(content)
    with pytest.raises(LoadError, match=message):
        load(tmp_path / "net.pth")


@pytest.mark.parametrize("new_format", [True, False])
def test_truncated_checkpoint(network: Tiny, new_format: bool, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=new_format)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(LoadError, match="truncated"):
        load(path)


@pytest.mark.parametrize("place", [b"net/data.pkl", b"net/data/0"])
def test_a_name_in_the_archive_that_is_no_text(place: bytes, network: Tiny, tmp_path: Path) -> None:
    path = saved(network.state_dict(), tmp_path / "net.pth")
    content = path.read_bytes()
    at = content.rindex(place)  # in the directory
    flags = content.rindex(b"PK\x01\x02", 0, at) + 8
    path.write_bytes(content[: flags + 1] + b"\x08" + content[flags + 2 : at] + b"\xff" + content[at + 1 :])
    with pytest.raises(LoadError, match=r"is truncated or damaged .*; copy or download it again"):
        load(path)


def test_the_old_format_cut_off_anywhere(network: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "net.th"
    torch.save(network.state_dict(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for size in range(1, len(content), 5):
        path.write_bytes(content[:size])
        with pytest.raises(LoadError, match=r"net.th (is truncated, damaged|holds the Python object \w)"):
            object_from_file(path, trust_pickle=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1.0, "b": 2.0}, r"dictionary without a state_dict \(keys: 'a', 'b'\)"),
        ({"state": {}, "param_groups": []}, "the state of an optimizer and no weights"),
        ([torch.zeros(2)], "holds a list, no state_dict"),
        (torch.zeros(2), "holds a Tensor, no state_dict"),
        ({}, "keys: none"),
        ({"fc.scale": torch.ones(1), "fc._packed_params": (torch.ones(1),)}, "already quantized"),
    ],
)
def test_contents_that_are_no_weights(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=message):
        load(saved(content, tmp_path / "net.pth"))


def test_places_that_hold_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match="is a folder without weights: it holds nothing; expected"):
        load(tmp_path)
    with pytest.raises(LoadError, match=r"there is no file .*gone.pth"):
        load(tmp_path / "gone.pth")
    with pytest.raises(LoadError, match=r"resnet19 is neither a file .*did you mean resnet18"):
        load("resnet19")
    (tmp_path / "secret.pth").write_bytes(b"x")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(LoadError, match=r"secret.pth can't be read: Permission denied"):
        load(tmp_path / "secret.pth")


def test_numpy_archive_is_called_data(tmp_path: Path) -> None:
    import numpy as np

    np.savez(tmp_path / "data.npz", images=np.zeros(3))
    with pytest.raises(LoadError, match=r"NumPy archive .*data and no model"):
        load(tmp_path / "data.npz")


class Payload:
    """Unpickled by an ordinary unpickler, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("new_format", [True, False])
def test_code_in_a_pickle_never_runs(new_format: bool, network: Tiny, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    content = {"state_dict": network.state_dict(), "extra": Payload(mark)}
    torch.save(content, tmp_path / "net.pth", _use_new_zipfile_serialization=new_format)
    with pytest.raises(
        LoadError, match=r"holds the Python object \w+.mkdir.*add --trust-pickle if you trust"
    ):
        load(tmp_path / "net.pth")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_whole_module_needs_trust(network: Tiny, tmp_path: Path) -> None:
    path = saved(nn.DataParallel(network), tmp_path / "net.pth")
    with pytest.raises(LoadError, match=r"holds the Python object .*DataParallel.*--trust-pickle"):
        load(path)
    teacher = load(path, trust_pickle=True)
    assert_same_network(teacher, network)
    assert any("whole pickled network" in note for note in teacher.notes)
    assert_same_network(load(saved({"model": network}, path), trust_pickle=True), network)


def test_pickle_of_code_that_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("gone_for_this_test")
    module.Net = type("Net", (nn.Linear,), {"__module__": "gone_for_this_test"})
    monkeypatch.setitem(sys.modules, "gone_for_this_test", module)
    path = saved(module.Net(2, 2), tmp_path / "net.pth")
    monkeypatch.delitem(sys.modules, "gone_for_this_test")
    with pytest.raises(LoadError, match=r"needs code that can't be imported here: .*gone_for_this_test"):
        load(path, trust_pickle=True)


def test_a_network_of_ultralytics_is_asked_for_as_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `yolo train` leaves: the detector that most people have."""
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, type(sys)(name))
    kind = type("DetectionModel", (nn.Linear,), {"__module__": "ultralytics.nn.tasks"})
    sys.modules["ultralytics.nn.tasks"].DetectionModel = kind
    path = saved({"model": kind(2, 2)}, tmp_path / "best.pt")
    for name in ("ultralytics", "ultralytics.nn", "ultralytics.nn.tasks"):
        monkeypatch.setitem(sys.modules, name, None)
    command = rf"`yolo export model={path} format=onnx dynamic=True`"
    with pytest.raises(LoadError, match=f"reading it would run code from the file.*{command}"):
        load(path)
    with pytest.raises(LoadError, match=f"its code can't be imported here.*{command}"):
        load(path, trust_pickle=True)


SCRIPT = """
from tests.converter.load.test_model import Tiny

class Net(Tiny):
    pass
"""


def test_class_of_the_script_that_saved_it(
    network: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command of the message makes a file that can be read."""
    (tmp_path / "train.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    saver = importlib.import_module("train").Net()
    saver.load_state_dict(network.state_dict())
    path = tmp_path / "net.pth"
    torch.save({"epoch": 1, "best": saver.eval()}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"ctrain\nNet\n", b"c__main__\nNet\n"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoadError, match=r"needs Net of the script that saved it \(its __main__\)") as refusal:
        load(path, trust_pickle=True)
    found = re.search(r'python -c "(.*?)", and convert importable.pth', str(refusal.value))
    assert found is not None
    main = ModuleType("__main__")
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "__main__", main)
        exec(found[1], vars(main))
    assert_same_network(load("importable.pth", trust_pickle=True), network)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("key", ["model", "arch"])
def test_whole_module_beside_weights_is_the_network(key: str, network: Tiny, tmp_path: Path) -> None:
    content = {"state_dict": Tiny().state_dict(), "criterion": nn.CrossEntropyLoss(), key: network}
    teacher = load(saved(content, tmp_path / "net.pth"), trust_pickle=True)
    assert_same_network(teacher, network)
    expected = f"network from the file, its entry {key!r} and not the weights beside it ('state_dict')"
    assert any(expected in note for note in teacher.notes)
