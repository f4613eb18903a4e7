import errno
from pathlib import Path

import pytest

from converter.errors import ConversionError, OutputError
from converter.workspace import Workspace


def test_files_appear_only_when_the_block_ends_well(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with Workspace(output) as workspace:
        workspace.path("a").write_text("new")
        assert not output.exists()
    assert [path.name for path in output.iterdir()] == ["a"]
    assert list(tmp_path.iterdir()) == [output]


def test_an_earlier_result_is_replaced_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "a").write_text("old")
    (output / "mine.txt").write_text("the user's")
    with Workspace(output) as workspace:
        workspace.path("a").write_text("new")
        assert (output / "a").read_text() == "old"
    assert (output / "a").read_text() == "new"
    assert (output / "mine.txt").read_text() == "the user's"


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConversionError), Workspace(tmp_path / "deep" / "out") as workspace:
        workspace.path("half").write_text("half")
        raise ConversionError("no")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_training(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Workspace(tmp_path / "out") as workspace:
        workspace.checkpoint.write_text("steps")
        workspace.path("half").write_text("half")
        raise KeyboardInterrupt
    assert not (tmp_path / "out").exists()
    with Workspace(tmp_path / "out") as workspace:
        assert workspace.checkpoint.read_text() == "steps"
        assert not workspace.path("half").exists()
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="it is a file"), Workspace(tmp_path / "out"):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="-o DIR"), Workspace(tmp_path / "file" / "out"):
        pass


def test_a_full_disk_is_the_users_matter(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), Workspace(tmp_path / "out") as workspace:
        workspace.path("half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
