"""The child's side: reads damaged files one by one and says how each went, as a line of JSON on stdout."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import warnings
from pathlib import Path

from calibrators.errors import CalibrationError
from converter.errors import ConversionError, OptionsError
from engines.errors import EngineError

OWN = (CalibrationError, ConversionError, EngineError, OptionsError)
SPARE_BYTES = 3 << 30
"""Memory that reading may take: a header that asks for more gets none."""
LIMIT_S = 60


def main(request: str) -> None:
    """Read the files of ``[[kind, index], ...]``."""
    with os.fdopen(os.dup(1), "w", buffering=1) as channel:
        os.dup2(2, 1)  # libraries print there
        import onnxruntime  # noqa: F401
        import torch

        from tests.fuzz.kinds import KINDS, mutated

        torch.set_num_threads(1)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        wholes: dict[str, Path] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for number, (name, index) in enumerate(json.loads(request)):
                kind = KINDS[name]
                if name not in wholes:
                    folder = Path(scratch) / f"whole {len(wholes)}"
                    folder.mkdir()
                    wholes[name] = kind.make(folder)
                    kind.read(wholes[name])
                folder = Path(scratch) / f"{number}"
                shutil.copytree(wholes[name].parent, folder)
                path = folder / wholes[name].name
                mutation, content = mutated(kind, wholes[name].read_bytes(), random.Random(f"{name}/{index}"))
                path.write_bytes(content)
                print(
                    json.dumps({"kind": name, "index": index, "mutation": mutation, "how": "begun"}),
                    file=channel,
                )
                signal.alarm(LIMIT_S)
                how, said = outcome(kind.read, path)
                signal.alarm(0)
                print(
                    json.dumps(
                        {"kind": name, "index": index, "mutation": mutation, "how": how, "said": said}
                    ),
                    file=channel,
                )
                shutil.rmtree(folder)


def outcome(read, path: Path) -> tuple[str, str]:
    """``loaded``, ``refused``, or what is wrong, with the message."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            read(path)
            how, said = "loaded", ""
        except OWN as error:
            how, said = "refused", str(error)
        except BaseException as error:  # whatever a library raises is what is looked for
            import traceback

            frames = [
                f for f in traceback.extract_tb(error.__traceback__) if "/site-packages/" not in f.filename
            ]
            own = [
                f"{Path(f.filename).name}:{f.lineno}" for f in frames if "/fuzz/tests/fuzz" not in f.filename
            ]
            how, said = "foreign", f"{type(error).__name__}: {str(error)[:300]} @ {' '.join(own[-3:])}"
    if how == "refused" and not is_readable(said):
        return "unreadable", said
    if how != "foreign" and heard:
        return (
            "warned",
            f"{heard[0].category.__name__}: {str(heard[0].message)[:300]} @ {heard[0].filename}:{heard[0].lineno}",
        )
    return how, said


def is_readable(text: str) -> bool:
    """Whether a message is one short paragraph."""
    return bool(text.strip()) and len(text) < 2000 and "\n" not in text.strip()


if __name__ == "__main__":
    main(sys.argv[1])
