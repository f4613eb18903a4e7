"""Ctrl-C and SIGTERM during training: finish the step, save, then stop."""

import signal
import threading
from types import FrameType, TracebackType


class InterruptAfterStep:
    """Context manager that turns the first SIGINT or SIGTERM into ``requested``; a second one stops at once.

    A request that nobody answered inside the block becomes a KeyboardInterrupt at its end.

    Without it a signal can land between two writes of the optimizer, and the state that is saved then is of
    no step at all. Outside the main thread signals stay as they are.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: dict[int, object] = {}

    def __enter__(self) -> "InterruptAfterStep":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self.requested and error is None:
            raise KeyboardInterrupt
