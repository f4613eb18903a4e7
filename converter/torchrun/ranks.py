"""``torchrun -m converter``: one conversion by several processes. The first leads and speaks, the others help.

torchrun names the processes in the environment, ends all when one ends badly, and turns every exit code but 0
into 1.
"""

import atexit
import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from calibrators.errors import CalibrationError
from converter.errors import ConversionError, OptionsError
from converter.torchrun.watchdog import Watch, clean_up_by_force
from engines.errors import EngineError
from zscgan_common.exit_codes import FAILED, INTERRUPTED, USAGE

if TYPE_CHECKING:  # it loads torch, which takes seconds, and the command line imports this module first
    from calibrators.distributed import Ranks
else:
    Ranks = Any

TOLD_WITHIN_S = 10.0
"""How long a failed process waits for the first to say so. torchrun kills after 30 s."""
LAST_WORDS_S = 1.0
"""torchrun ends the first process as soon as another has ended badly."""

EXIT_CODES = {"options": USAGE, "user": FAILED, "bug": FAILED, "interrupt": INTERRUPTED}


def launched() -> bool:
    """Whether torchrun started this process together with others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def muted_unless_first() -> Iterator[None]:
    """In every process but the first nothing is printed inside the block; an exception that leaves it still is."""
    if not launched() or int(os.environ["RANK"]) == 0:
        yield
        return
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
    ):
        yield


@contextmanager
def ranks_of_this_run(device: str) -> Iterator[Ranks]:
    """This process among those of torchrun, or alone; ``device`` is ``--device``.

    An error on any rank ends the block on all. The first raises it, on whichever rank it occurred; the others end
    their process in silence.
    """
    from calibrators.distributed import SINGLE, Ranks

    if not launched():
        yield SINGLE
        return
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://"))
    ranks = Ranks(rank, world)
    channel = FailureChannel(PrefixStore("zscgan-convert", store), ranks)
    try:
        cuda = take_gpu(device)
        ranks.join(store, cuda=cuda)
        with Watch(abort=ranks.abandon, give_up=channel.give_up, failed=channel.others_failed, cuda=cuda):
            yield ranks
            ranks.leave()
    except SystemExit:
        raise
    except BaseException as error:
        atexit.register(end_process, ranks)  # once the message is out
        if not ranks.first:
            sys.exit(channel.report(error))
        cause = channel.cause(error)
        channel.say_told()
        if cause is error:
            raise
        raise cause from error


def end_process(ranks: Ranks) -> None:
    """Close the connections of a failed run; where that hangs, end the process, whose clean-up would hang as well."""
    if not ranks.abandon():
        leave_process(FAILED)


def leave_process(code: int) -> NoReturn:
    """End the process at once: Python's own way out waits for threads, and NCCL's for GPUs that never answer."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def take_gpu(device: str) -> bool:
    """Make the GPU of LOCAL_RANK this process's own; False where the work is for the CPU.

    Raises OptionsError where there are fewer GPUs than processes.
    """
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return False
    processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if processes > gpus:
        raise OptionsError(
            f"expected a GPU for each of the {processes} processes on this machine, but there are {gpus}; type "
            f"torchrun --nproc-per-node {gpus}, or --device cpu"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return True


class FailureChannel:
    """How the first rank learns what went wrong on another, whose connections only say that it is gone.

    ``store`` is a torch.distributed Store; torchrun itself holds it, so it outlives the ranks.
    """

    def __init__(self, store: Any, ranks: Ranks) -> None:
        self._store = store
        self._ranks = ranks

    def report(self, error: BaseException) -> int:
        """Leave the error for the first rank, or print it if that doesn't take it up; the exit code."""
        from calibrators.distributed import RankLostError

        if isinstance(error, RankLostError):
            time.sleep(LAST_WORDS_S)
            return FAILED
        kind, text = encode_error(error)
        self._leave_words(kind, text)
        self._ranks.abandon()
        if not self._told() and kind != "interrupt":
            print(f"error: {text}", file=sys.__stderr__, flush=True)
        return EXIT_CODES[kind]

    def _leave_words(self, kind: str, text: str) -> None:
        with contextlib.suppress(RuntimeError):  # the store has gone with the first rank
            self._store.set(f"failure/{self._ranks.rank}", json.dumps([kind, text]))
            if kind != "interrupt":  # which comes to all, and the first rank may still be saving
                self._store.set("failed", "yes")

    def others_failed(self) -> bool:
        """Whether the first rank, which asks, has to expect nothing more from another."""
        if not self._ranks.first:
            return False  # the first ends the run, and torchrun the others
        with contextlib.suppress(RuntimeError):
            return bool(self._store.check(["failed"]))
        return False

    def give_up(self) -> NoReturn:
        """End this process, whose main thread is stuck: with the words and the exit code of one that is not."""
        kind, text = encode_error(
            self.cause(KeyboardInterrupt()) if self._ranks.first else KeyboardInterrupt()
        )
        clean_up_by_force()
        if self._ranks.first:
            print(f"error: {text}" if text else "interrupted", file=sys.__stderr__, flush=True)
            self.say_told()
        else:
            self._leave_words(kind, text)
        self._ranks.abandon()
        leave_process(EXIT_CODES[kind])

    def cause(self, error: BaseException) -> BaseException:
        """The error that ``error`` comes from: another rank's, where this one was only cut off or told to end."""
        from calibrators.distributed import RankLostError

        if not isinstance(error, RankLostError | KeyboardInterrupt):
            return error
        with contextlib.suppress(RuntimeError):
            for rank in range(1, self._ranks.world):
                if self._store.check([f"failure/{rank}"]):
                    kind, text = json.loads(self._store.get(f"failure/{rank}"))
                    return decode_error(kind, text, rank)
        if isinstance(error, KeyboardInterrupt):
            return error
        return ConversionError(
            "another process of this run has ended without a word (killed, or out of memory?); lower --gan-batch or "
            "torchrun's --nproc-per-node"
        )

    def say_told(self) -> None:
        """Let the others know that the user gets a message."""
        with contextlib.suppress(RuntimeError):
            self._store.set("told", "yes")

    def _told(self) -> bool:
        deadline = time.monotonic() + TOLD_WITHIN_S
        while time.monotonic() < deadline:
            try:
                if self._store.check(["told"]):
                    return True
            except RuntimeError:  # the store has gone with the first rank, which had its own error to tell
                return True
            time.sleep(0.05)
        return False


def encode_error(error: BaseException) -> tuple[str, str]:
    """Kind and text of an error, for ``decode_error`` in another process."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupt", ""
    if isinstance(error, OptionsError):
        return "options", str(error)
    if isinstance(error, ConversionError | CalibrationError | EngineError):
        return "user", str(error)
    return "bug", "".join(traceback.format_exception(error))


def decode_error(kind: str, text: str, rank: int) -> BaseException:
    """An error of the same exit code and message as the one that ``encode_error`` saw on ``rank``."""
    if kind == "interrupt":
        return KeyboardInterrupt()
    if kind == "options":
        return OptionsError(text)
    return ConversionError(text) if kind == "user" else RuntimeError(f"process {rank} failed:\n{text}")
