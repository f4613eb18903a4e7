"""The user's function for boxes, by file and by package."""

from pathlib import Path

import pytest

from converter.errors import DecodeError
from converter.load.user_module import decoder_from_callable


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
