"""Where ``zscgan-samples`` writes: one archive, or one folder, and what a report adds."""

import shutil
from pathlib import Path

from converter.errors import OutputError
from converter.workspace import Workspace

FOLDER_ENTRIES = frozenset(
    {"images", "labels", "labels.csv", "data.yaml", "samples.json", "samples.png", "generator.pt"}
)
"""All that a folder of samples holds."""


class SamplesOutput(Workspace):
    """A Workspace whose output takes its place as a whole.

    It must not exist, unless it may be overwritten; a folder with anything else in it never is. An archive ``FILE.npz``
    has what a report adds beside it, as ``FILE.samples.json``. Raises as Workspace does.
    """

    def __init__(self, output: Path, *, archive: bool, overwrite: bool) -> None:
        super().__init__(output)
        self._archive, self._overwrite = archive, overwrite

    def beside(self, name: str) -> str:
        """The name of what a report adds: in the folder, or beside the archive."""
        return f"{self.output.stem}.{name}" if self._archive else name

    def _place(self) -> Path:
        output = self.output.resolve()
        if output.exists() and output.is_dir() == self._archive:
            kind, wanted = ("a folder", "a file") if self._archive else ("a file", "a folder")
            raise OutputError(f"expected -o {self.output} to be {wanted}, but it is {kind}; give another -o")
        if output.exists() and not self._overwrite:
            raise OutputError(f"-o {self.output} exists; add --overwrite, or give another -o")
        if output.is_dir():
            others = sorted(entry.name for entry in output.iterdir() if entry.name not in FOLDER_ENTRIES)
            if others:
                raise OutputError(
                    f"-o {self.output} holds {others[0]}, which is no part of samples, so it isn't overwritten; give "
                    "another -o"
                )
        return output.with_name(output.name + ".partial")

    def _put_in_place(self, written: list[str]) -> None:
        output = self.output.resolve()
        if self._archive:
            for name in written:
                self.path(name).replace(output.with_name(name))
            return
        if output.exists():
            shutil.rmtree(output)
        output.mkdir()
        for name in written:
            self.path(name).replace(output / name)
