"""The child's side: reads damaged files one by one, and says how each went as a line of JSON on stdout."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from calibrators.errors import CalibrationError
from converter.errors import ConversionError, OptionsError
from engines.errors import EngineError
from tests.fuzz.driver import BEGUN
from tests.fuzz.kinds import KINDS, mutated

OWN = (CalibrationError, ConversionError, EngineError, OptionsError)
SPARE_BYTES = 3 << 30
"""Memory that reading may take: a header that asks for more gets none."""
LIMIT_S = 120
"""A file that takes longer ends the child."""
LONGEST = 2000
"""Characters of a message; those that name the forms of MODEL have some hundreds."""


def main() -> None:
    """Read the files of ``[[kind, index], ...]`` on stdin."""
    with os.fdopen(os.dup(1), "w", buffering=1) as channel, tempfile.TemporaryDirectory() as scratch:
        os.dup2(2, 1)  # libraries print there
        torch.set_num_threads(1)
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        wholes: dict[str, Path] = {}
        for name, index in json.load(sys.stdin):
            if name not in wholes:
                wholes[name] = _whole(name, Path(scratch) / f"whole {len(wholes)}")
            folder = Path(scratch) / "damaged"
            shutil.copytree(wholes[name].parent, folder)
            path = folder / wholes[name].name
            mutation, content = mutated(
                KINDS[name], wholes[name].read_bytes(), random.Random(f"{name}/{index}")
            )
            path.write_bytes(content)
            entry = {"kind": name, "index": index, "mutation": mutation}
            print(json.dumps(entry | {"how": BEGUN}), file=channel)
            signal.alarm(LIMIT_S)
            how, said = outcome(KINDS[name].read, path)
            signal.alarm(0)
            print(json.dumps(entry | {"how": how, "said": said}), file=channel)
            shutil.rmtree(folder)


def _whole(name: str, folder: Path) -> Path:
    """A file that isn't damaged; the reader has to like it."""
    folder.mkdir()
    path = KINDS[name].make(folder)
    KINDS[name].read(path)
    return path


def outcome(read: Callable[[Path], object], path: Path) -> tuple[str, str]:
    """``loaded``, ``refused`` with its message, or what is wrong."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            read(path)
            how, said = "loaded", ""
        except OWN as error:
            how, said = "refused", str(error)
        except BaseException as error:  # noqa: BLE001 - any other is what is looked for
            places = [
                f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)
            ]
            return "foreign", f"{type(error).__name__}: {str(error)[:300]} at {' '.join(places[-6:])}"
    if how == "refused" and not is_readable(said):
        return "unreadable", said[:LONGEST]
    if heard:
        return "warned", f"{heard[0].category.__name__}: {str(heard[0].message)[:300]} at {heard[0].filename}"
    return how, said


def is_readable(text: str) -> bool:
    """Whether a message is one short paragraph."""
    return bool(text.strip()) and len(text) < LONGEST and "\n" not in text.strip()


if __name__ == "__main__":
    main()
