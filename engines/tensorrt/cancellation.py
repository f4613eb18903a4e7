"""A long call into TensorRT that reports its progress and that Ctrl-C stops."""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from engines.tensorrt.api import IProgressMonitor, TensorRT

Result = TypeVar("Result")
Progress = Callable[[str, int, int], None]
"""Called with the name of a phase, the steps that are done and the number of steps, on the builder's thread."""


class Cancellation:
    """Whether the work is to stop, and the exception of a callback that asked for it."""

    def __init__(self) -> None:
        self._requested = threading.Event()
        self.error: Exception | None = None

    @property
    def requested(self) -> bool:
        return self._requested.is_set()

    def request(self, error: Exception | None = None) -> None:
        self.error = self.error or error
        self._requested.set()


def new_monitor(
    trt: TensorRT, cancellation: Cancellation, on_progress: Progress | None = None
) -> IProgressMonitor:
    """An ``IProgressMonitor`` that tells ``on_progress`` and ends the build once ``cancellation`` is requested.

    TensorRT swallows the exceptions of callbacks, so one of ``on_progress`` ends the build and waits in
    ``cancellation.error``.
    """
    steps: dict[str, int] = {}

    def tell(phase: str, done: int) -> None:
        if on_progress is None or cancellation.requested:
            return
        try:
            on_progress(phase, done, steps.get(phase, done))
        except Exception as error:  # noqa: BLE001 - raised again by the caller, outside of TensorRT
            cancellation.request(error)

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, _parent_phase: str | None, num_steps: int) -> None:
            steps[phase_name] = num_steps
            tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tell(phase_name, step + 1)
            return not cancellation.requested

        def phase_finish(self, phase_name: str) -> None:
            # A phase may end before its last step; its name is used again later.
            tell(phase_name, steps.get(phase_name, 0))

    monitor: Any = Monitor()
    return monitor  # type: ignore[no-any-return]


class _Outcome(Generic[Result]):
    def __init__(self) -> None:
        self.done = threading.Event()
        self.results: list[Result] = []
        self.error: BaseException | None = None

    def fill(self, work: Callable[[], Result]) -> None:
        try:
            self.results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self.error = error
        finally:
            self.done.set()


def interruptible(work: Callable[[], Result], cancellation: Cancellation) -> Result:
    """What ``work`` gives; it runs in a thread of its own, since Python handles signals between bytecodes.

    On Ctrl-C ``cancellation`` is requested and KeyboardInterrupt raised once ``work`` has come back; a second
    Ctrl-C leaves it behind and raises at once. An exception of ``work``, or of a callback, is raised here.
    Any thread may call this; only the main one sees Ctrl-C.
    """
    outcome = _Outcome[Result]()
    # Not Thread.join: interrupted, it takes the thread for ended. A daemon, so that the second Ctrl-C can exit.
    thread = threading.Thread(target=outcome.fill, args=(work,), name="tensorrt-build", daemon=True)
    try:
        thread.start()
        outcome.done.wait()
    except KeyboardInterrupt:
        cancellation.request()
        if thread.ident is not None:
            outcome.done.wait()
        raise
    if cancellation.error is not None:
        raise cancellation.error
    if outcome.error is not None:
        raise outcome.error
    return outcome.results[0]
