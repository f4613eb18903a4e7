"""What a network returns, as tensors with names."""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from itertools import chain, count

from torch import Tensor, nn

LOGITS, OUTPUT = "logits", "output"
ONE_FORM = "one tensor, or a tuple, list, dictionary or named tuple of tensors"


def named_tensors(result: object) -> dict[str, Tensor]:
    """The tensors in ``result``, what a network returned, in their order: by the names that they have, else numbered.

    A tensor alone is ``logits`` where it has two axes, else ``output``. None counts for nothing, as an auxiliary
    output that is absent in eval mode. Raises TypeError for what is neither a tensor nor holds any.
    """
    if isinstance(result, Tensor):
        return {LOGITS if result.dim() == 2 else OUTPUT: result}
    found: dict[str, Tensor] = {}
    for path, tensor in _leaves(result, ()):
        stem = ("_".join(path) if not path[0].isdecimal() else "_".join((OUTPUT, *path))) or OUTPUT
        others = (f"{stem}_{number}" for number in count(1))
        found[next(name for name in chain([stem], others) if name not in found)] = tensor
    if not found:
        raise TypeError(f"it holds no tensor but is {type(result).__name__}")
    return found


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif value is not None:
        for name, part in _parts(value):
            yield from _leaves(part, (*path, name))


def _parts(value: object) -> list[tuple[str, object]]:
    """The named parts of a container; raises TypeError for anything else."""
    if isinstance(value, Mapping):
        return [(str(name), part) for name, part in value.items()]
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple | list):
        return list(zip(names or map(str, range(len(value))), value, strict=True))
    if is_dataclass(value) and not isinstance(value, type):
        return [(entry.name, getattr(value, entry.name)) for entry in fields(value)]
    raise TypeError(f"it holds a {type(value).__name__}")


def tensors_of(result: object) -> tuple[Tensor, ...]:
    """The tensors of ``named_tensors``."""
    return tuple(named_tensors(result).values())


class TensorsOf(nn.Module):
    """``network``, which returns some container, returning a tuple of its tensors."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tensors_of(self.network(x))
