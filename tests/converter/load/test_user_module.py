"""The user's network and function for boxes, by file and by package."""

from pathlib import Path

import pytest

from converter.errors import ArchitectureError, DecodeError
from converter.load.user_module import arguments_of, decoder_from_callable, module_from_callable


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "decoder_of_this_test.py").write_text(
        "def boxes(outputs):\n    return [outputs]\n\nwidth = 3\n"
    )
    return tmp_path


@pytest.mark.parametrize("form", ["decoder_of_this_test.py:boxes", "decoder_of_this_test:boxes"])
def test_the_function_is_found(folder: Path, form: str) -> None:
    assert decoder_from_callable(form)(1) == [1]


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("boxes.py", "expected --decode file.py:callable | package.module:callable, got --decode boxes.py"),
        ("gone.py:boxes", "--decode gone.py:boxes: there is no file gone.py"),
        ("decoder_of_this_test.py:box", "there is no box in it; it has boxes"),
        ("decoder_of_this_test.py:width", "width is a int; expected a class or function"),
        ("package_that_is_gone:boxes", "importing it failed: ModuleNotFoundError"),
    ],
)
def test_what_is_absent_is_named(folder: Path, form: str, message: str) -> None:
    with pytest.raises(DecodeError) as caught:
        decoder_from_callable(form)
    assert message in str(caught.value)


def test_an_error_in_the_file_is_located(folder: Path) -> None:
    (folder / "wrong.py").write_text("x = 1\nundefined\n")
    with pytest.raises(
        DecodeError, match=r"--decode wrong.py:boxes: importing it failed at .*wrong.py:2: NameError"
    ):
        decoder_from_callable("wrong.py:boxes")


def test_a_relative_import_names_the_option(folder: Path) -> None:
    (folder / "pack").mkdir()
    (folder / "pack" / "boxes.py").write_text("from . import other\n")
    with pytest.raises(DecodeError, match=r"type --decode pack\.boxes:boxes$"):
        decoder_from_callable("pack/boxes.py:boxes")


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose functions note in the module that they return how they were called."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "builder_of_this_test.py").write_text(
        "from torch import nn\n\n\ndef build(width=3, num_classes=10):\n    return nn.Linear(width, num_classes)\n\n\n"
        "def bare(width=3):\n    return nn.Linear(width, 10)\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    ("call", "sizes"),
    [
        ("build", (3, 7)),  # the weights' classes are passed by themselves
        ("bare", (3, 10)),
        ("build(num_classes=5)", (3, 5)),
        ("build(width=2)", (2, 10)),
        ("build()", (3, 10)),
    ],
)
def test_arguments_are_typed_or_known(builder: Path, call: str, sizes: tuple[int, int]) -> None:
    arch = f"builder_of_this_test.py:{call}"
    network = module_from_callable(arch, num_classes=7)
    assert (network.in_features, network.out_features) == sizes


@pytest.mark.parametrize(
    "call",
    [
        "build(3)",
        "build(**{'width': 3})",
        "build(width=open('x'))",
        "build(width=3",
        "build(width=3)(4)",
        "build(a=1, a=2)",
    ],
)
def test_only_names_with_literals_are_arguments(builder: Path, call: str) -> None:
    with pytest.raises(
        ArchitectureError, match=r"expected --arch 'builder_of_this_test.py:build\(name=value, ...\)'"
    ):
        module_from_callable(f"builder_of_this_test.py:{call}")


def test_an_argument_that_the_callable_lacks(builder: Path) -> None:
    with pytest.raises(
        ArchitectureError, match=r"calling it failed.*'depth'.*\(it is called with depth=3\); to pass others"
    ):
        module_from_callable("builder_of_this_test.py:build(depth=3)")


def test_literals_of_all_kinds() -> None:
    place, arguments = arguments_of("a.py:f(x=[1, (2.5, 'b')], y={'c': None}, z=True)")
    assert (place, arguments) == ("a.py:f", {"x": [1, (2.5, "b")], "y": {"c": None}, "z": True})
    assert arguments_of("a.py:f") == ("a.py:f", None)
