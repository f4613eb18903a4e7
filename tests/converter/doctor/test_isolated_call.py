"""Functions called in processes of their own: answers, errors, crashes and hangs."""

import os
import signal
import sys
import time

import pytest

from converter.doctor.isolated_call import ChildError, call_in_child

HERE = "tests.converter.doctor.test_isolated_call"


def doubled(value: int) -> int:
    print("a library's greeting")
    os.write(1, b"and one past Python\n")
    return 2 * value


def refuse(value: str) -> None:
    raise ValueError(f"expected something else than {value}")


def crash(number: int) -> None:
    sys.stderr.write("the last words\n")
    sys.stderr.flush()
    os.kill(os.getpid(), number)


def sleep(seconds: float) -> None:
    time.sleep(seconds)


def leave(code: int) -> None:
    os._exit(code)


def test_the_answer_comes_back_past_what_libraries_print() -> None:
    assert call_in_child(f"{HERE}:doubled", 21, 60.0) == 42


def test_an_error_keeps_its_traceback() -> None:
    with pytest.raises(ChildError, match="ended with exit code 1") as caught:
        call_in_child(f"{HERE}:refuse", "this", 60.0)
    assert caught.value.last_line == "ValueError: expected something else than this"
    assert "Traceback" in caught.value.stderr


def test_a_crash_is_an_error_of_the_child_alone() -> None:
    with pytest.raises(ChildError, match="ended with signal SIGSEGV") as caught:
        call_in_child(f"{HERE}:crash", int(signal.SIGSEGV), 60.0)
    assert caught.value.last_line == "the last words"


def test_signals_without_a_name_have_their_number() -> None:
    with pytest.raises(ChildError, match=f"ended with signal {signal.SIGRTMIN + 1}$"):
        call_in_child(f"{HERE}:crash", int(signal.SIGRTMIN) + 1, 60.0)


def test_a_child_that_hangs_is_ended() -> None:
    with pytest.raises(ChildError, match=r"did not end within 0\.5 s"):
        call_in_child(f"{HERE}:sleep", 30.0, 0.5)


def test_a_silent_end_says_so() -> None:
    with pytest.raises(ChildError, match="exit code 7") as caught:
        call_in_child(f"{HERE}:leave", 7, 60.0)
    assert (caught.value.last_line, caught.value.in_words) == ("", "ended with exit code 7")
