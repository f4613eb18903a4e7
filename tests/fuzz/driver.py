"""Damaged files read in children: one that dies is reported for the file that it read, and the next goes on."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOOD = ("loaded", "refused")
BEGUN = "begun"


@dataclass(frozen=True)
class Outcome:
    """How one damaged file was taken; ``how`` is one of ``GOOD``, or what is wrong."""

    kind: str
    index: int
    mutation: str
    how: str
    said: str = ""


def outcomes(
    files: Sequence[tuple[str, int]], each: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """How each file, a kind and a number, was taken; ``each`` is told at once."""
    done: list[Outcome] = []
    while len(done) < len(files):
        with (
            tempfile.TemporaryFile("w+") as request,
            tempfile.TemporaryFile("w+", errors="replace") as log,
        ):
            json.dump(files[len(done) :], request)
            request.seek(0)
            child = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child"],
                cwd=ROOT, stdin=request, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
            last = None
            assert child.stdout is not None
            for line in child.stdout:
                last = Outcome(**json.loads(line))
                if last.how != BEGUN:
                    done.append(last)
                    each(last)
            code = child.wait()
            log.seek(0)
            said = log.read().strip()
        if code != 0:
            if last is None or last.how != BEGUN:
                raise RuntimeError(f"the child that reads the files failed: {said}")
            how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            done.append(Outcome(last.kind, last.index, last.mutation, how, said[-300:]))
            each(done[-1])
    return done
