"""TensorRT's messages: to Python's logging, and to a file for those who ask for one."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from engines.errors import BuildError
from engines.tensorrt.api import ILogger, TensorRT

if TYPE_CHECKING:

    class BuildLog(ILogger):
        """TensorRT's logger.

        ``errors`` are the first two errors and the last since someone cleared them, and ``reason`` is all of these:
        TensorRT tells the cause first and goes on to what failed because of it. ``file_error`` is a full disk.
        """

        errors: list[str]
        file_error: OSError | None

        @property
        def reason(self) -> str: ...

else:
    BuildLog = Any

# TensorRT keeps the first logger of a process for messages that belong to no object, by its bare address, as long
# as any builder or runtime lives. So none may end: it would be called when it is gone.
_KEPT: list[Any] = []
# Each later logger is told that it is ignored. It isn't: all that builder or runtime says of itself reaches it.
_NOT_THE_FIRST = "differs from one already"
_ERRORS_KEPT = 3


@contextmanager
def build_log(trt: TensorRT, logger: logging.Logger, path: Path | None = None) -> Iterator[BuildLog]:
    """A logger for TensorRT that hands each message to ``logger`` and, with its time and severity, to ``path``.

    The file has whole lines at any moment, so it tells of a build that failed, too. Raises BuildError where
    it can't be written.
    """
    if path is None:
        yield new_logger(trt, logger)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w", encoding="utf-8", buffering=1)
    except OSError as error:
        raise BuildError(f"could not write the build log {path}: {error.strerror}") from error
    with file:
        log = new_logger(trt, logger, file)
        yield log
    if log.file_error is not None:
        raise BuildError(
            f"could not write the build log {path}: {log.file_error.strerror}"
        ) from log.file_error


def new_logger(trt: TensorRT, logger: logging.Logger, file: TextIO | None = None) -> BuildLog:
    """An ``ILogger`` of the module ``trt``. INFO tells of each build step, which is DEBUG to this package."""
    base: Any = trt.ILogger
    log: BuildLog = _log_class(base)(logger, file)
    _KEPT.append(log)
    return log


@cache
def _log_class(base: Any) -> Any:
    """The class of the loggers of one library, whose ``ILogger`` is ``base``."""
    levels = {
        base.Severity.INTERNAL_ERROR: logging.ERROR,
        base.Severity.ERROR: logging.ERROR,
        base.Severity.WARNING: logging.WARNING,
    }

    class Log(base):  # type: ignore[misc]
        def __init__(self, logger: logging.Logger, file: TextIO | None) -> None:
            base.__init__(self)
            self.errors: list[str] = []
            self.file_error: OSError | None = None
            self._logger, self._file = logger, file

        @property
        def reason(self) -> str:
            return "; ".join(self.errors)

        def log(self, severity: Any, message: str) -> None:
            level = logging.DEBUG if _NOT_THE_FIRST in message else levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                del self.errors[_ERRORS_KEPT - 1 :]
                self.errors.append(message)
            self._logger.log(level, "%s", message)
            # Closed is the file of a build that is over, or was left behind by a second Ctrl-C.
            if self._file is None or self._file.closed:
                return
            time = datetime.now().isoformat(sep=" ", timespec="milliseconds")
            try:  # one write for each message: TensorRT logs from several threads
                self._file.write(f"{time} {severity.name:<14} {message}\n")
            except OSError as error:
                self.file_error = self.file_error or error

    return Log
