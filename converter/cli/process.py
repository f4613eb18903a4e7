"""How a command of the converter runs and ends: its exit code, its signals, its threads and memory."""

import ctypes
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import click

from converter.errors import OptionsError
from zscgan_common.errors import ZSCGANError
from zscgan_common.exit_codes import FAILED, INTERRUPTED, USAGE

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Names of glibc's malloc.h."""


def exit_code(work: Callable[[], int], verbose: int) -> int:
    """What ``work`` returns. A user's mistake ends with one message."""
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, stream=sys.stderr)
    try:
        with stopped_by_sigterm():
            return work()
    except ZSCGANError as error:
        if verbose > 1:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        return USAGE if isinstance(error, OptionsError) else FAILED
    except KeyboardInterrupt:
        click.echo("interrupted", err=True)
        return INTERRUPTED


@contextmanager
def stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that what is half done is removed."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def tune_process() -> None:
    """Make PyTorch's steps cheaper, before it is loaded: waiting workers spin less, and memory is kept.

    Where another process wants the same core, spinning OpenMP workers cost ten times the work itself (measured: 1.1 s
    in place of 0.09 s for a training step). glibc maps every large tensor anew, and the kernel clears its pages one by
    one: a sixth of a step of EfficientNet-Lite0 (measured: 1.85 to 2.03 s in place of 1.55 s).
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is not None and hasattr(library, "gnu_get_libc_version"):
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
