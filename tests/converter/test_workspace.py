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


def test_outputs_of_an_earlier_run_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "generator.pt").write_text("old")
    with Workspace(tmp_path) as workspace:
        workspace.path("report.json").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_strangers_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / "theirs").write_text("")
    with pytest.raises(OutputError, match="in the way"), Workspace(tmp_path / "out"):
        pass
    assert (tmp_path / "out.partial" / "theirs").exists()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with Workspace(tmp_path / "out") as first:
        first.path("a").write_text("first")
        with pytest.raises(OutputError, match="another run"), Workspace(tmp_path / "out"):
            pass
        assert first.path("a").exists()
    assert (tmp_path / "out" / "a").read_text() == "first"


def test_the_current_folder_can_be_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Workspace(Path()) as workspace:
        workspace.path("report.json").write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConversionError), Workspace(tmp_path / "deep" / "out") as workspace:
        workspace.path("half").write_text("half")
        raise ConversionError("no")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_training(tmp_path: Path) -> None:
    kept: list[Path] = []
    with pytest.raises(KeyboardInterrupt), Workspace(tmp_path / "out", kept.append) as workspace:
        workspace.checkpoint.write_text("steps")
        workspace.path("half").write_text("half")
        raise KeyboardInterrupt
    assert kept == [tmp_path / "out.partial" / "training.ckpt"]
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
    with pytest.raises(OutputError, match="another place with -o"), Workspace(tmp_path / "file" / "out"):
        pass


def test_a_full_disk_is_the_users_matter(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No space left"), Workspace(tmp_path / "out") as workspace:
        workspace.path("half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []
