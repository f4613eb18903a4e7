"""What training scripts store beside the weights, read without running the code it was made by.

PyTorch's restricted unpickler calls what it is given for a name in the file. It gets stand-ins, as numpy's own
functions trust the bytes of the file. They drop the values, but for arrays of numbers, which may be the weights: their
shape, type and bytes are kept and checked where they become a tensor.
"""

import argparse
import re
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor


class Ignored:
    """A value of the file that nothing reads."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


class StoredType(Ignored):
    """A dtype of numpy, by its code; ``order`` is that of its bytes."""

    def __init__(self, code: object = None, *_: object) -> None:
        self.code = code
        self.order: object = "|"

    def __setstate__(self, state: object) -> None:
        self.order = state[1] if isinstance(state, tuple) and len(state) > 1 else None


class StoredArray(Ignored):
    """An array of numpy as the file says it, unchecked."""

    parts: tuple[Any, ...] = ()

    def __setstate__(self, state: object) -> None:
        self.parts = state if isinstance(state, tuple) else ()

    def tensor(self) -> Tensor | None:
        """The array as a tensor; None for what is no array of real numbers with the bytes that its shape asks for."""
        if len(self.parts) != 5:
            return None
        _, shape, kind, columns_first, content = self.parts
        if not isinstance(kind, StoredType) or not re.fullmatch(r"[fiu][1248]|b1", str(kind.code)):
            return None
        sound = isinstance(shape, tuple) and all(isinstance(size, int) and size >= 0 for size in shape)
        if not sound or not isinstance(content, bytes) or kind.order not in ("<", ">", "|", "="):
            return None
        try:
            dtype = np.dtype(f"{kind.order}{kind.code}")
        except TypeError:  # no float of one byte
            return None
        if prod(shape) * dtype.itemsize != len(content):
            return None
        flat = np.frombuffer(content, dtype).astype(dtype.newbyteorder("="))
        array = flat.reshape(shape, order="F" if columns_first else "C")
        return torch.from_numpy(np.array(array, order="C"))


def _new_dict(*_: object) -> dict[Any, Any]:
    """A dict, filled by the unpickler, in the place of a defaultdict."""
    return {}


def _new_list(*_: object) -> list[Any]:
    """A list, filled by the unpickler, in the place of a deque."""
    return []


_PATHS = ("Path", "PosixPath", "WindowsPath", "PurePath", "PurePosixPath", "PureWindowsPath")
_IGNORED = {
    "builtins": ("bool", "bytes", "dict", "float", "frozenset", "int", "list", "str", "tuple"),
    "collections": ("ChainMap", "UserDict", "UserList", "UserString"),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "pathlib": _PATHS,
    "pathlib._local": _PATHS,
    "numpy": ("ndarray",),
    # numpy 2 and the versions before it.
    "numpy._core.multiarray": ("scalar",),
    "numpy.core.multiarray": ("scalar",),
}


def safe_globals() -> list[Any]:
    """What a checkpoint may hold besides tensors and plain containers, for ``torch.serialization.safe_globals``.

    numpy's scalars, arrays and dtypes, paths, dates, the standard collections, plain types such as a defaultdict
    refers to, and ``argparse.Namespace``.
    """
    names = [f"{module}.{name}" for module, names in _IGNORED.items() for name in names]
    return [
        argparse.Namespace,
        (_new_dict, "collections.defaultdict"),
        (_new_list, "collections.deque"),
        (StoredArray, "numpy._core.multiarray._reconstruct"),
        (StoredArray, "numpy.core.multiarray._reconstruct"),
        (StoredType, "numpy.dtype"),
        *((Ignored, name) for name in [*names, *_numpy_types()]),
    ]


def _numpy_types() -> list[str]:
    """The names of numpy's scalar types and of the classes of its dtypes."""
    scalars = [
        name for name, value in vars(np).items() if isinstance(value, type) and issubclass(value, np.generic)
    ]
    dtypes = [name for name, value in vars(np.dtypes).items() if isinstance(value, type)]
    return [*(f"numpy.{name}" for name in scalars), *(f"numpy.dtypes.{name}" for name in dtypes)]
