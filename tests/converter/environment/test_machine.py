"""Texts for strangers name neither the user nor his folders."""

import getpass
import socket
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from converter.environment import machine
from converter.environment.machine import processor, public_text, without_private_names

HOME = "/" + "home/"  # in parts, as no file of the project shall name a folder of a machine


@pytest.fixture(autouse=True)
def ann(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "annika")
    monkeypatch.setattr(socket, "gethostname", lambda: "ann-desk")
    monkeypatch.setattr(Path, "home", lambda: Path("/data/people/annika"))
    monkeypatch.setattr(Path, "cwd", lambda: Path("/data/people/annika/secret-project"))
    monkeypatch.setattr(sys, "prefix", "/data/people/annika/.venv")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/data/people/annika/.venv/lib/site-packages")
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/tmp")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/data/people/annika/secret-project/model.pth", "./model.pth"),
        (
            "/data/people/annika/.venv/lib/site-packages/torch/a.so: broken",
            "site-packages/torch/a.so: broken",
        ),
        ("/data/people/annika/.venv/bin/python", "VENV/bin/python"),
        ("can't open '/data/people/annika/models'", "can't open '~/models'"),
        ("/tmp/tmpabc/model.int8.onnx", "TMP/tmpabc/model.int8.onnx"),
        ("/tmpfiles", "/tmpfiles"),
        (f"{HOME}bob/x and /Users/bob/y", f"{HOME}USER/x and /Users/USER/y"),
        ("annika@ann-desk failed", "USER@HOST failed"),
        ("annikas, desk-ann-desk", "annikas, desk-ann-desk"),
        ("libcuda.so.1: cannot open shared object file", "libcuda.so.1: cannot open shared object file"),
        ("/usr/lib/x86_64-linux-gnu/libnvinfer.so.10", "/usr/lib/x86_64-linux-gnu/libnvinfer.so.10"),
    ],
)
def test_private_names_are_replaced(text: str, shown: str) -> None:
    assert public_text(text) == shown


def test_this_projects_own_folder_is_cut() -> None:
    assert (
        public_text(f'File "{Path(machine.__file__).parent / "x.py"}"')
        == 'File "PROJECT/converter/environment/x.py"'
    )


def test_texts_are_cleaned_inside_of_json_and_fields_keep_their_names() -> None:
    document = {"annika": ["annika", 1, None, {"x": ("ann-desk", True)}]}
    assert without_private_names(document) == {"annika": ["USER", 1, None, {"x": ["HOST", True]}]}


def test_short_and_ordinary_names_stand_in_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(getpass, "getuser", lambda: "root")
    monkeypatch.setattr(socket, "gethostname", lambda: "pc")
    assert public_text("the root cause on a pc") == "the root cause on a pc"


def test_a_user_without_a_name_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nobody)
    assert public_text("some text") == "some text"


def test_the_processor_has_a_name() -> None:
    assert processor().strip()
