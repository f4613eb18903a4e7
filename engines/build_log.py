"""TensorRT's messages: to Python's logging, and to a file for those who ask for one."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from engines.errors import BuildError
from engines.tensorrt_api import ILogger, TensorRT

if TYPE_CHECKING:

    class BuildLog(ILogger):
        """TensorRT's logger, with the message of its last error (empty before one) and of a full disk."""

        last_error: str
        file_error: OSError | None

else:
    BuildLog = Any


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
    severity = trt.ILogger.Severity
    levels = {
        severity.INTERNAL_ERROR: logging.ERROR,
        severity.ERROR: logging.ERROR,
        severity.WARNING: logging.WARNING,
    }

    class Log(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_error = ""
            self.file_error: OSError | None = None

        def log(self, severity: Any, message: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            if level == logging.ERROR:
                self.last_error = message
            logger.log(level, "%s", message)
            # Closed is the file of a build that was left behind by a second Ctrl-C.
            if file is None or file.closed:
                return
            time = datetime.now().isoformat(sep=" ", timespec="milliseconds")
            try:  # one write for each message: TensorRT logs from several threads
                file.write(f"{time} {severity.name:<14} {message}\n")
            except OSError as error:
                self.file_error = self.file_error or error

    log: BuildLog = Log()
    return log
