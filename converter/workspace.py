"""The output folder: filled under a temporary name, and put in place only when everything is there."""

import contextlib
import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

from converter.errors import OutputError

CHECKPOINT, QAT_CHECKPOINT = "training.ckpt", "qat.ckpt"
KEPT = frozenset({CHECKPOINT, QAT_CHECKPOINT})
"""What a run that ends badly leaves for the next try."""
MARKER = ".zscgan-convert"
FP32_ONNX, INT8_ONNX = "model.fp32.onnx", "model.int8.onnx"
CPU_ENGINE, RTX_ENGINE, TENSORRT_ENGINE = (
    "model.onnxruntime.onnx",
    "model.tensorrt-rtx.plan",
    "model.tensorrt.plan",
)
ENGINE_FILES = {"onnxruntime": CPU_ENGINE, "tensorrt": TENSORRT_ENGINE, "tensorrt-rtx": RTX_ENGINE}
"""Engine -> its file. Every conversion makes the first."""
BUILD_LOG, IMPLICIT_CACHE = "tensorrt.log", "calibration.tensorrt.cache"
SAMPLES, ANSWERS = "samples.png", "answers.png"
OUTPUTS = frozenset({
    FP32_ONNX, INT8_ONNX, CPU_ENGINE, RTX_ENGINE, TENSORRT_ENGINE, BUILD_LOG, IMPLICIT_CACHE,
    "calibration.cache", "calibration.json", "calibration.tensorrt.json", "generator.pt", "report.html", "report.json",
    SAMPLES, ANSWERS,
})  # fmt: skip
"""Names that a conversion may write; those of an earlier one don't stay beside a new report."""


class Workspace:
    """Context manager over a draft folder, whose files move into ``output`` when the block ends well.

    The draft is ``DIR.partial``, or ``DIR/.partial`` where DIR exists, so that both are on one disk. When the
    block ends badly all is removed but the checkpoints of trainings, of which ``on_kept`` is told the latest, so that
    the same command can go on from there; without a checkpoint nothing is left. Raises OutputError where the folder
    can't be written, belongs to somebody else, or is in use by another run.
    """

    def __init__(self, output: Path, on_kept: Callable[[Path], None] = lambda _: None) -> None:
        self.output = output
        self.draft = output
        self._on_kept = on_kept
        self._lock: IO[str] | None = None
        self._made: list[Path] = []

    @property
    def checkpoint(self) -> Path:
        """Where the training of the generator saves its state."""
        return self.draft / CHECKPOINT

    @property
    def qat_checkpoint(self) -> Path:
        """Where the fine-tuning saves its state."""
        return self.draft / QAT_CHECKPOINT

    def path(self, name: str) -> Path:
        """Where to write the file ``name`` for now."""
        return self.draft / name

    def files(self) -> list[str]:
        """Names of the outputs that have been written so far."""
        return sorted(p.name for p in self.draft.iterdir() if p.name not in {*KEPT, MARKER})

    def __enter__(self) -> "Workspace":
        try:
            self.draft = self._place()
            self._make()
            self._claim()
            self._remove_leftovers()
        except OSError as error:
            self._release()
            self._unmake()
            raise output_error(self.output, error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._publish()
                return
        except OSError as failure:
            error = failure
        finally:
            self._release()
        with contextlib.suppress(OSError):  # the error that led here says more
            self._remove_leftovers()
            kept = [path for path in (self.qat_checkpoint, self.checkpoint) if path.exists()]
            if kept:
                self._on_kept(kept[0])  # the later training
            else:
                (self.draft / MARKER).unlink(missing_ok=True)
                self._unmake()
        if isinstance(error, OSError):
            raise output_error(self.output, error) from error

    def abandon(self) -> None:
        """Clean up as after an error, for a process that ends in the middle of the block."""
        interrupt = KeyboardInterrupt()
        self.__exit__(KeyboardInterrupt, interrupt, None)

    def _place(self) -> Path:
        """The draft folder. Raises OutputError for an output that can't be one."""
        resolved = self.output.resolve()
        if resolved.exists() and not resolved.is_dir():
            raise OutputError(
                f"expected -o {self.output} to be a folder, but it is a file; give another -o DIR"
            )
        return resolved / ".partial" if resolved.is_dir() else resolved.with_name(resolved.name + ".partial")

    def _make(self) -> None:
        missing = [self.draft, *self.draft.parents]
        self._made = [path for path in missing if not path.exists()]
        self.draft.mkdir(parents=True, exist_ok=True)
        marked = (self.draft / MARKER).exists()
        if self.draft not in self._made and not marked and any(self.draft.iterdir()):
            raise OutputError(f"{self.draft} is in the way and isn't ours; move it or give another -o DIR")
        if marked:  # left by an earlier run, which made it
            self._made = [self.draft]

    def _claim(self) -> None:
        self._lock = (self.draft / MARKER).open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._release()
            raise OutputError(
                f"another run is writing to {self.output}; wait for it or give another -o DIR"
            ) from error

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _unmake(self) -> None:
        """Remove the folders that this run made, the deepest first."""
        for path in self._made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _remove_leftovers(self) -> None:
        for path in self.draft.iterdir():
            if path.name not in {*KEPT, MARKER}:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _publish(self) -> None:
        self._put_in_place(self.files())
        for name in KEPT:
            self.path(name).unlink(missing_ok=True)
        (self.draft / MARKER).unlink()
        self.draft.rmdir()

    def _put_in_place(self, written: list[str]) -> None:
        """Move what was written to the output."""
        self.output.mkdir(parents=True, exist_ok=True)
        for name in written:
            self.path(name).replace(self.output / name)
        for name in OUTPUTS.difference(written):
            (self.output / name).unlink(missing_ok=True)


def output_error(output: Path, error: OSError) -> OutputError:
    """What a failed write means to the user."""
    where = f" ({error.filename})" if error.filename else ""
    return OutputError(
        f"expected to write the output {output}, but: {error.strerror or error}{where}; "
        "free some space or give another place with -o"
    )
