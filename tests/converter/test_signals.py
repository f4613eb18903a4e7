import os
import signal
import threading

import pytest

from converter.signals import InterruptAfterStep


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt, match="answered"), InterruptAfterStep() as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        assert interrupt.requested
        raise KeyboardInterrupt("answered")
    assert signal.getsignal(number) is before


def test_a_request_that_nobody_answered_stops_at_the_end() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), InterruptAfterStep():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("step")
    assert done == ["step"]


def test_the_second_signal_stops_at_once() -> None:
    with pytest.raises(KeyboardInterrupt), InterruptAfterStep():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_another_thread_leaves_signals_alone() -> None:
    handlers: list[object] = []

    def inside() -> None:
        with InterruptAfterStep():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
