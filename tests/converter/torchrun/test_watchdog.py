"""A rank that waits for another which never comes, and the thread that ends it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from converter.cli.process import stopped_by_sigterm
from converter.torchrun import watchdog as watch
from converter.torchrun.watchdog import Watch, clean_up_by_force, on_forced_exit

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
LONGEST_S = 120

# A rank of two as the pipeline runs it; the other one sleeps through the collective.
SCRIPT = """
import os, sys, time
from pathlib import Path
import torch
from converter.torchrun import watchdog as watch
from converter.cli.process import stopped_by_sigterm
from converter.torchrun.ranks import ranks_of_this_run
from converter.workspace import Workspace
watch.STUCK_S = 1.0
try:
    with stopped_by_sigterm(), ranks_of_this_run("cpu") as ranks:
        with Workspace(Path(f"out{ranks.rank}")) as workspace, watch.on_forced_exit(workspace.abandon):
            workspace.path("half.onnx").write_text("half")
            workspace.checkpoint.write_text("the training so far")
            ranks.any(False)
            print("waiting", flush=True)
            if ranks.rank == int(sys.argv[1]):
                ranks.mean(torch.zeros(3))
            time.sleep(1000)
except KeyboardInterrupt:
    sys.exit(130)
"""


@contextmanager
def two_ranks(folder: Path, waiting: int) -> Iterator[list["subprocess.Popen[str]"]]:
    """Both ranks, of which ``waiting`` is in a collective or about to enter it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(waiting)],
            cwd=folder,
            env={**os.environ, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline() == "waiting\n"
        yield ranks
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate(timeout=LONGEST_S)


@pytest.mark.parametrize("waiting", [0, 1], ids=["first", "other"])
def test_sigterm_ends_a_rank_that_waits_in_a_collective(waiting: int, tmp_path: Path) -> None:
    with two_ranks(tmp_path, waiting) as ranks:
        time.sleep(0.5)  # on its way into the collective; before it the signal would end it as well
        ranks[waiting].terminate()
        _, said = ranks[waiting].communicate(timeout=LONGEST_S)
        assert ranks[waiting].returncode == 130, said
        assert "Traceback" not in said
        assert (said.count("interrupted\n") == 1) == (waiting == 0)
        kept = sorted(path.name for path in (tmp_path / f"out{waiting}.partial").iterdir())
        assert kept == [".zscgan-convert", "training.ckpt"]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("POLL_S", "STUCK_S", "NOTICED_WITHIN_S"):
        monkeypatch.setattr(watch, name, 0.05)


def never() -> None:
    raise AssertionError("not to be called")


def test_a_rank_that_waits_for_its_gpu_is_freed_by_an_abort(quick: None) -> None:
    freed, signals = threading.Event(), list[int]()
    previous = signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
    try:
        with Watch(abort=freed.set, give_up=never, cuda=True):
            os.kill(os.getpid(), signal.SIGTERM)
            assert freed.wait(LONGEST_S)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert signals == [signal.SIGTERM]


def test_where_an_abort_does_not_help_the_process_is_given_up(quick: None) -> None:
    aborted, given_up = threading.Event(), threading.Event()
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with Watch(abort=aborted.set, give_up=given_up.set, cuda=True):
            os.kill(os.getpid(), signal.SIGTERM)
            assert given_up.wait(LONGEST_S)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert aborted.is_set()


def test_a_main_thread_that_goes_on_is_left_alone(quick: None) -> None:
    previous = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with Watch(abort=never, give_up=never):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.5)  # in one place for long, but in no collective
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_an_error_of_another_rank_ends_the_wait(quick: None) -> None:
    aborted = threading.Event()
    with (
        pytest.raises(KeyboardInterrupt),
        stopped_by_sigterm(),
        Watch(abort=aborted.set, give_up=never, failed=lambda: True, cuda=True),
    ):
        threading.Event().wait(LONGEST_S)


def test_without_a_signal_nothing_happens_and_the_pipe_is_closed(quick: None) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Watch(abort=never, give_up=never, cuda=True):
        time.sleep(0.3)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert signal.set_wakeup_fd(-1) == -1


def test_what_has_to_be_cleaned_up_is_known_while_the_block_runs() -> None:
    done: list[str] = []
    with on_forced_exit(lambda: done.append("outer")):
        with on_forced_exit(lambda: done.append("over")):
            pass
        with on_forced_exit(lambda: done.append("inner")):
            clean_up_by_force()
    assert done == ["inner", "outer"]
