"""The machine in words that can be shown to others: its CPU, and texts without private names."""

import getpass
import platform
import re
import socket
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

_SHORTEST_NAME = 3
"""Names of fewer letters stand in too many words."""

_ORDINARY_NAMES = frozenset({"localhost", "root", "user"})


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def without_private_names(value: Any) -> Any:
    """A JSON value with every text in it cleaned by ``public_text``; names of fields stay."""
    if isinstance(value, dict):
        return {key: without_private_names(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_private_names(entry) for entry in value]
    return public_text(value) if isinstance(value, str) else value


def public_text(text: str) -> str:
    """``text`` with folders of this installation and of the user cut to their last part, and without the
    names of the user and of the machine, so that it can be put into a public bug report."""
    for folder, shown in sorted(_folders().items(), key=lambda item: -len(item[0])):
        text = re.sub(rf"{re.escape(folder)}(?![\w.-])", shown, text)
    text = re.sub(r"(/(?:home|Users)/)[^/\s'\":]+", r"\1USER", text)
    for name, shown in ((_user(), "USER"), (socket.gethostname(), "HOST")):
        if len(name) >= _SHORTEST_NAME and name not in _ORDINARY_NAMES:
            text = re.sub(rf"(?<![\w-]){re.escape(name)}(?![\w-])", shown, text)
    return text


def _folders() -> dict[str, str]:
    named = {
        str(Path.cwd()): ".",
        str(Path.home()): "~",
        tempfile.gettempdir(): "TMP",
        # A system's Python is where everybody has it, and so are the libraries beside it.
        sys.prefix if sys.prefix != sys.base_prefix else "": "VENV",
        sysconfig.get_path("purelib"): "site-packages",
        str(Path(__file__).parents[2]): "PROJECT",
    }
    return {folder: shown for folder, shown in named.items() if folder not in {"/", ""}}


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user can be without a name
        return ""
