"""Whether reading a ``.pt2`` file could run code of its author.

``torch.export.load`` unpickles some records, loads compiled libraries and evaluates symbolic sizes as Python
expressions, all without asking. What is left after these checks are JSON, raw tensors and pickles that
PyTorch's restricted unpickler reads (``checkpoint.restricted_pickles``).
"""

import json
import re
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from converter.errors import LoadError

# What the names in an honest size are: SymPy's and PyTorch's functions of integers, and symbols such as s77.
_FUNCTION = re.compile(
    r"Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilToInt|FloorToInt|TruncToInt|TruncToFloat|RoundToInt|"
    r"RoundDecimal|ToFloat|IntTrueDiv|FloatTrueDiv|PowByNatural|FloatPow|ModularIndexing|Where|"
    r"Piecewise|Identity|Pow|Mul|Add|Eq|Ne|Lt|Le|Gt|Ge|And|Or|Not|Abs|floor|ceiling|true|false|True|"
    r"False|Integer|Rational|oo|int_oo"
)
_SYMBOL = re.compile(r"Symbol\('[a-z]+\d+'(?:, [a-z]+=(?:True|False))*\)")
_NAME = re.compile(r"[A-Za-z_]\w*")
_HONEST = re.compile(r"[\w\s+\-*/%(),.<>=&|~]*")


def refuse_code(path: Path) -> None:
    """Raise LoadError where ``path`` holds anything that could run code as it is read."""
    from torch.export.pt2_archive._package import PT2ArchiveReader  # what torch.export.load reads with

    with PT2ArchiveReader(str(path)) as archive:
        records = archive.get_file_names()
        for name in records:
            if name.startswith("data/aotinductor/"):
                raise LoadError(_message(path, f"the compiled library {name}"))
            if "/opaque_obj" in name or "/custom_obj" in name:
                raise LoadError(_message(path, f"the pickled object {name}"))
        programs = [name for name in records if name.startswith("models/")]
        if not programs:
            raise LoadError(
                f"{path} was written by a PyTorch before 2.8; export it again, or add --trust-pickle "
                "if you trust its source"
            )
        for name in programs:
            for text in _expressions(json.loads(archive.read_bytes(name))):
                if not honest_expression(text):
                    raise LoadError(_message(path, f"the expression {text[:60]!r}"))


def on_cpu(path: Path) -> Path | BytesIO:
    """``path``, or where the program was exported on a GPU, a copy in memory of the same program on the CPU.

    PyTorch reads such a file on a machine with a GPU alone.
    """
    with zipfile.ZipFile(path) as old:
        changed = {}
        for name in old.namelist():
            if name.endswith(".json") and _move_to_cpu(decoded := json.loads(old.read(name))):
                changed[name] = json.dumps(decoded).encode()
            elif "/data/sample_inputs/" in name:
                changed[name] = b""  # a pickle of tensors on the GPU, which nothing here needs
        if not any(name.endswith(".json") for name in changed):
            return path
        copy = BytesIO()
        with zipfile.ZipFile(copy, "w") as new:
            for name in old.namelist():
                new.writestr(name, changed[name] if name in changed else old.read(name))
    copy.seek(0)
    return copy


def honest_expression(text: str) -> bool:
    """Whether ``text`` is arithmetic on integers and symbols, without attributes, strings or other calls."""
    rest = _SYMBOL.sub("0", text)
    if not _HONEST.fullmatch(rest) or re.search(r"\.\s*[A-Za-z_(]", rest):
        return False
    return all(_FUNCTION.fullmatch(name) or re.fullmatch(r"[a-z]+\d+", name) for name in _NAME.findall(rest))


def _move_to_cpu(value: Any) -> bool:
    """Whether a decoded JSON names a GPU; its place, in place, is then the CPU."""
    if isinstance(value, dict) and value.keys() == {"type", "index"} and value["type"] == "cuda":
        value.update(type="cpu", index=None)
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return sum(map(_move_to_cpu, parts)) > 0  # of all parts, where any() would stop at the first


def _expressions(value: Any) -> Iterator[str]:
    """Every text under ``expr_str`` in a decoded JSON."""
    if isinstance(value, dict):
        for key, entry in value.items():
            if key == "expr_str" and isinstance(entry, str):
                yield entry
            else:
                yield from _expressions(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _expressions(entry)


def _message(path: Path, what: str) -> str:
    return (
        f"{path} holds {what}, and reading it would run code from the file; add --trust-pickle if you trust "
        "its source"
    )
