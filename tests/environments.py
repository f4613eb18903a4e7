"""Virtual environments with exactly what some requirements ask for, as links to what this interpreter has."""

import os
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = distribution("zscgan-convert")
DEPENDENCIES = [text for text in PROJECT.requires or () if "extra ==" not in text]
COMMANDS = [entry.name for entry in PROJECT.entry_points if entry.group == "console_scripts"]


def closure(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Name -> distribution, of all that ``requirements`` need; extras are followed where they are asked for."""
    found: dict[str, Distribution] = {}
    waiting = [Requirement(text) for text in requirements]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        wanted = waiting.pop()
        key = wanted.name.lower(), frozenset(wanted.extras)
        if key in seen:
            continue
        seen.add(key)
        package = distribution(wanted.name)
        found[wanted.name.lower()] = package
        for text in package.requires or ():
            inner = Requirement(text)
            extras = ("", *wanted.extras)
            if inner.marker is None or any(inner.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(inner)
    return found


def make_environment(folder: Path, requirements: Iterable[str]) -> Path:
    """The ``bin`` folder of a new virtual environment with ``requirements`` and what these need, and nothing else."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = (folder / "lib").glob("python*/site-packages")
    for package in closure(requirements).values():
        for name in sorted({file.parts[0] for file in package.files or ()} - {"..", "__pycache__"}):
            target = Path(str(package.locate_file(name)))
            if target.exists() and not (packages / name).exists():
                (packages / name).symlink_to(target)
    return folder / "bin"


def outside(environment: Path) -> dict[str, str]:
    """The variables of a shell where ``environment``, a ``bin`` folder, is active and this checkout is not known."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "COV_"))
    }
    return kept | {
        "PATH": f"{environment}{os.pathsep}{os.environ['PATH']}",
        "PIP_NO_INDEX": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
