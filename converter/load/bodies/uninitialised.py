"""Building networks without drawing their weights."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class Uninitialised(TorchFunctionMode):
    """New weights keep what their memory holds: drawing random ones for VGG takes 10 s."""

    skipped: tuple[Any, ...] = (torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.erfinv_)
    """Changes in place that are left out."""

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in self.skipped:
            return args[0]
        return func(*args, **kwargs or {})
