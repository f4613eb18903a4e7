"""The output folder: filled under a temporary name, and put in place only when everything is there."""

import errno
import shutil
from pathlib import Path
from types import TracebackType

from converter.errors import OutputError

CHECKPOINT = "training.ckpt"


class Workspace:
    """Context manager over ``DIR.partial``, whose files move into ``DIR`` when the block ends well.

    When it ends badly, all is removed but the training checkpoint, so that the same command can go on from
    there; without a checkpoint nothing is left. Raises OutputError where the folder can't be written.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.draft = output.with_name(output.name + ".partial")
        self.checkpoint = self.draft / CHECKPOINT
        self._made: list[Path] = []

    def __enter__(self) -> "Workspace":
        if self.output.exists() and not self.output.is_dir():
            raise OutputError(
                f"expected -o {self.output} to be a folder, but it is a file; give another -o DIR"
            )
        try:
            self._make(self.draft)
            self._remove_leftovers()
        except OSError as error:
            self._unmake()
            raise output_error(self.output, error) from error
        return self

    def path(self, name: str) -> Path:
        """Where to write the file ``name`` for now."""
        return self.draft / name

    def files(self) -> list[str]:
        """Names of the outputs that have been written so far."""
        return sorted(path.name for path in self.draft.iterdir() if path != self.checkpoint)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            try:
                self._publish()
            except OSError as failure:
                raise output_error(self.output, failure) from failure
            return
        self._remove_leftovers()
        if not self.checkpoint.exists():
            self._unmake()
        if isinstance(error, OSError) and error.errno in (
            errno.ENOSPC,
            errno.EDQUOT,
            errno.EROFS,
            errno.EACCES,
            errno.EPERM,
        ):
            raise output_error(self.output, error) from error

    def _make(self, folder: Path) -> None:
        missing = [folder, *folder.parents]
        self._made = [path for path in missing if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)

    def _unmake(self) -> None:
        """Remove the folders that this run made, the deepest first."""
        for path in self._made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _remove_leftovers(self) -> None:
        for path in self.draft.iterdir():
            if path != self.checkpoint:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _publish(self) -> None:
        self.checkpoint.unlink(missing_ok=True)
        self.output.mkdir(exist_ok=True)
        for path in sorted(self.draft.iterdir()):
            path.replace(self.output / path.name)
        self.draft.rmdir()


def output_error(output: Path, error: OSError) -> OutputError:
    """What a failed write means to the user."""
    return OutputError(
        f"expected to write the output folder {output}, but: {error.strerror or error}; "
        "free some space or give another folder with -o DIR"
    )
