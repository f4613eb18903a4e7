"""A thread that ends this process where the main thread can't: it waits for another rank, and no signal reaches it.

Python runs a signal's handler between two instructions of the main thread. A wait in a collective, or for a GPU that
waits in one, is a single instruction, and lasts for ever where the other rank never comes.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

POLL_S = 0.25
STUCK_S = 10.0
"""A main thread that stays in one place for so long after a signal is stuck. torchrun kills after 30 s."""
NOTICED_WITHIN_S = 2.0
"""How long the main thread has to notice by itself, by closed connections, that another rank has failed."""

_COLLECTIVES = str(Path("torch", "distributed"))
_forced: list[Callable[[], None]] = []


@contextmanager
def on_forced_exit(clean_up: Callable[[], None]) -> Iterator[None]:
    """Has ``clean_up`` called where the process is ended inside the block without the main thread."""
    _forced.append(clean_up)
    try:
        yield
    finally:
        _forced.remove(clean_up)


def clean_up_by_force() -> None:
    """Run what ``on_forced_exit`` was told, the latest first."""
    for clean_up in reversed(_forced):
        clean_up()


class Watch:
    """Context manager, in the main thread: after SIGINT or SIGTERM, sees to it that the process ends.

    A main thread that is stuck is freed by ``abort``, where the connections allow it, and if that does not help
    ``give_up`` ends the process. ``failed`` says whether another rank has reported an error: that counts as a SIGTERM.
    A ``cuda`` rank may be stuck in any place that waits for the GPU, others in a collective alone.
    """

    def __init__(
        self,
        *,
        abort: Callable[[], object],
        give_up: Callable[[], object],
        failed: Callable[[], bool] = lambda: False,
        cuda: bool = False,
    ) -> None:
        self._abort, self._give_up, self._failed, self._cuda = abort, give_up, failed, cuda
        self._closing = threading.Event()
        self._main = threading.main_thread().ident or 0
        self._previous = -1
        self._read, self._write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> "Watch":
        os.set_blocking(self._write, False)
        self._previous = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        signal.set_wakeup_fd(self._previous)
        self._thread.join(NOTICED_WITHIN_S)
        if not self._thread.is_alive():
            os.close(self._read)
            os.close(self._write)

    def _run(self) -> None:
        ending = False
        while not (ending or self._closing.is_set()):
            if select.select([self._read], [], [], POLL_S)[0]:
                ending = bool({signal.SIGINT, signal.SIGTERM} & set(os.read(self._read, 64)))
            elif self._failed() and not self._closing.wait(NOTICED_WITHIN_S):
                ending = True
                os.kill(os.getpid(), signal.SIGTERM)
                if self._cuda:  # nothing is left to wait for
                    self._abort()
        self._see_to_the_end()

    def _see_to_the_end(self) -> None:
        steps = [self._abort, self._give_up] if self._cuda else [self._give_up]
        place, since = None, time.monotonic()
        while steps and not self._closing.wait(POLL_S):
            before, place = place, self._place()
            if place is None or place != before:
                since = time.monotonic()
            elif time.monotonic() - since >= STUCK_S:
                steps.pop(0)()
                since = time.monotonic()

    def _place(self) -> tuple[int, int] | None:
        """Where the main thread is; None where it is not in a place that waits for other ranks."""
        top = sys._current_frames().get(self._main)  # documented for finding deadlocks
        frame: FrameType | None = top
        while frame is not None and not self._cuda and _COLLECTIVES not in frame.f_code.co_filename:
            frame = frame.f_back
        return None if top is None or frame is None else (id(top), top.f_lasti)
