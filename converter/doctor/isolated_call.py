"""A function called in a process of its own, with JSON in and out.

A native library that doesn't fit the machine can take its process down or hang; then only the child is lost.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

_CODE = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from converter.doctor.isolated_call import answer
answer(*sys.argv[2:])
"""


class ChildError(Exception):
    """The child ended without an answer: ``how`` says by what, ``stderr`` is what it printed."""

    def __init__(self, how: str, stderr: str = "") -> None:
        super().__init__(how)
        self.how = how
        self.stderr = stderr

    @property
    def last_line(self) -> str:
        """The last line of ``stderr``: the error's message, where it was a Python error. Empty for silence."""
        return self.stderr.strip().rpartition("\n")[2].strip()

    @property
    def in_words(self) -> str:
        """How it ended, and the last line of what it said."""
        return f"{self.how}: {self.last_line}" if self.last_line else self.how


def call_in_child(function: str, argument: Any, timeout_s: float) -> Any:
    """What ``module:function`` returns for ``argument``, both values that JSON knows.

    The child finds modules where this process does. Raises ChildError where it doesn't end well, or not within
    ``timeout_s``.
    """
    command = [sys.executable, "-c", _CODE, json.dumps(sys.path), function, json.dumps(argument)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "PYTHONIOENCODING": "utf-8"}
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=timeout_s, check=False, env=environment, encoding="utf-8",
            errors="replace", stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"did not end within {timeout_s:g} s") from error
    if done.returncode != 0:
        raise ChildError(f"ended with {_code_in_words(done.returncode)}", done.stderr)
    return json.loads(done.stdout)


def answer(function: str, argument: str) -> None:
    """The child's side: prints the result as JSON on the real stdout.

    Libraries print there too, so file descriptor 1 is turned to stderr before they are loaded.
    """
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)
        module, _, name = function.partition(":")
        json.dump(getattr(importlib.import_module(module), name)(json.loads(argument)), channel)


def _code_in_words(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
