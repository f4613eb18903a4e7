"""Whether a TorchScript archive has all the bytes of its tensors.

``torch.jit.load`` doesn't look: a tensor whose record is too short is read from whatever memory lies behind it, or
the process ends there.
"""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from converter.errors import LoadError

_VALUES = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "GLOBAL"}


def refuse_short_records(path: Path) -> None:
    """Raise LoadError where a record of a TorchScript archive is shorter than the tensors in it."""
    with zipfile.ZipFile(path) as archive:
        sizes = {entry.filename.partition("/")[2]: entry.file_size for entry in archive.infolist()}
        pickles = [name for name in archive.namelist() if name.endswith(("/data.pkl", "/constants.pkl"))]
        for name in pickles:
            folder = name.partition("/")[2].removesuffix(".pkl")
            for key, needed in _storages(archive.read(name)):
                if needed > sizes.get(f"{folder}/{key}", 0):
                    raise LoadError(
                        f"{path} is damaged: its record {folder}/{key} has {sizes.get(f'{folder}/{key}', 0)} bytes, "
                        f"and the tensor in it needs {needed}; copy or download it again"
                    )


def _storages(content: bytes) -> Iterator[tuple[str, int]]:
    """Record and bytes of every storage in a pickle, which is not executed.

    A storage is the persistent id ``("storage", torch.FloatStorage, record, device, elements)``; each of the five
    is written out or taken from the memo.
    """
    dtypes = torch.storage._storage_type_to_dtype_map()
    memo: dict[Any, Any] = {}
    values: list[Any] = []
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in _VALUES:
            values.append(argument)
        elif opcode.name in {"BINPUT", "LONG_BINPUT"}:
            memo[argument] = values[-1] if values else None
        elif opcode.name in {"BINGET", "LONG_BINGET"}:
            values.append(memo.get(argument))
        elif opcode.name == "BINPERSID":
            _, kind, record, _, elements = values[-5:]
            yield record, elements * dtypes[kind.rpartition(" ")[2]].itemsize
