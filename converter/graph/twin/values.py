"""What flows through a twin: tensors on its device, and shapes on the host.

``Shape`` gives a NumPy array, and what is computed from shapes stays one, so that a view of any batch size costs
no round trip to a GPU and works on fake tensors. An annotation of an operator's parameter says what it takes:

``Tensor``     a tensor on the device; an array is copied there
``Ints``       numbers that decide shapes, known when the twin is built wherever the graph allows
``Floats``     the same for factors
``Number``     one number, if it is known when the twin is built
``Index``      the same, where an axis of one element isn't a number
``Host``       an array on the host, of an operator that computes with shapes
``Anything``   a tensor or an array
"""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Host: TypeAlias = NDArray[Any] | np.generic
Ints: TypeAlias = int | tuple[int, ...] | Host | Tensor
Floats: TypeAlias = float | tuple[float, ...] | Host | Tensor
Number: TypeAlias = bool | int | float | Host | Tensor
Index: TypeAlias = int | Host | Tensor
Anything: TypeAlias = Host | Tensor

AutoPad = Literal["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]
Flag = Literal[0, 1]


def as_list(value: int | float | Sequence[int | float] | Host | Tensor) -> list[Any]:
    """The numbers in ``value`` as a flat list."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        value = value.tolist()
    return list(value) if isinstance(value, Sequence) else [value]


def as_int(value: Ints) -> int:
    """The only number in ``value``."""
    (number,) = as_list(value)
    return int(number)


def as_number(value: Number) -> bool | int | float | Tensor:
    """``value`` as what PyTorch takes for a number."""
    return value.item() if isinstance(value, np.ndarray | np.generic) else value


def axis_list(axes: Ints | None, rank: int) -> list[int] | None:
    """Axes counted from the front; None for all of them, which an empty list means too."""
    return [axis % rank if rank else 0 for axis in as_list(axes)] or None if axes is not None else None


def tensor_like(value: Host, like: Tensor | None) -> Tensor:
    """A copy of ``value`` on the device of ``like``, which the host doesn't wait for."""
    tensor = torch.tensor(np.asarray(value))
    return tensor if like is None else tensor.to(like.device, non_blocking=True)


def index_tensor(value: Index, like: Tensor) -> Tensor:
    """``value`` as a tensor of int64 on the device of ``like``."""
    if isinstance(value, Tensor):
        return value.long()
    return tensor_like(np.asarray(value, np.int64), like)


def host_constant(values: Any, dtype: str) -> NDArray[Any]:
    """An array of ``values``, which are nested lists or a number."""
    return np.array(values, dtype)
