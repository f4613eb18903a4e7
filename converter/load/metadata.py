"""What training scripts store beside the weights, read without running the code it was made by.

PyTorch's restricted unpickler calls what it is given for a name in the file. Nothing reads the values, so it gets
stand-ins that drop them: numpy's own functions trust the bytes of the file.
"""

import argparse
from typing import Any


class Ignored:
    """A value of the file that nothing reads."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _state: object) -> None:
        pass


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
    "numpy": ("dtype", "ndarray"),
    # numpy 2 and the versions before it.
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
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
        *((Ignored, name) for name in [*names, *_numpy_types()]),
    ]


def _numpy_types() -> list[str]:
    """The names of numpy's scalar types and of the classes of its dtypes."""
    import numpy as np

    scalars = [
        name for name, value in vars(np).items() if isinstance(value, type) and issubclass(value, np.generic)
    ]
    dtypes = [name for name, value in vars(np.dtypes).items() if isinstance(value, type)]
    return [*(f"numpy.{name}" for name in scalars), *(f"numpy.dtypes.{name}" for name in dtypes)]
