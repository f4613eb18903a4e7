"""Damaged files read in children: one that dies is reported for the file that it read, and the next goes on."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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

    def told(outcome: Outcome) -> None:
        done.append(outcome)
        each(outcome)

    while len(done) < len(files):
        last, code, said = _child(files[len(done) :], told)
        if code == 0:
            continue
        if last is None or last.how != BEGUN:
            raise RuntimeError(f"the child that reads the files failed: {said}")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        told(replace(last, how=how, said=said[-300:]))
    return done


def _child(
    files: Sequence[tuple[str, int]], told: Callable[[Outcome], None]
) -> tuple[Outcome | None, int, str]:
    """What a child said last, its exit code and what it printed."""
    last = None
    with tempfile.TemporaryFile("w+") as request, tempfile.TemporaryFile("w+", errors="replace") as log:
        json.dump(files, request)
        request.seek(0)
        command = [sys.executable, "-m", "tests.fuzz.child"]
        with subprocess.Popen(
            command, cwd=ROOT, stdin=request, stdout=subprocess.PIPE, stderr=log, text=True
        ) as child:
            assert child.stdout is not None
            for line in child.stdout:
                last = Outcome(**json.loads(line))
                if last.how != BEGUN:
                    told(last)
        log.seek(0)
        return last, child.returncode, log.read().strip()
