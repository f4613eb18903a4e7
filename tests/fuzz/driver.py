"""Files read in children: one that dies is reported for the file that it read, and the next goes on."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GOOD = ("loaded", "refused")


@dataclass(frozen=True)
class Outcome:
    """How one damaged file was taken; ``how`` is one of ``GOOD``, or what is wrong."""

    kind: str
    index: int
    mutation: str
    how: str
    said: str = ""


def outcomes(files: Sequence[tuple[str, int]]) -> list[Outcome]:
    """How each file was taken."""
    done: list[Outcome] = []
    while len(done) < len(files):
        child = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.child", json.dumps(files[len(done) :])],
            cwd=ROOT, capture_output=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        lines = [Outcome(**json.loads(line)) for line in child.stdout.splitlines()]
        done += [line for line in lines if line.how != "begun"]
        if child.returncode != 0:
            if not lines or lines[-1].how != "begun":
                raise RuntimeError(child.stderr.decode(errors="replace"))
            last = lines[-1]
            how = (
                signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit {child.returncode}"
            )
            said = child.stderr.decode(errors="replace").strip()[-400:]
            done.append(Outcome(last.kind, last.index, last.mutation, how, said))
    return done
