"""Weights that PyTorch keeps in parts, as the layers compute them: weight and spectral norm, and pruning."""

from collections.abc import Callable

import torch
from torch import Tensor

from converter.load.state_dict import State
from zscgan_common.text import cut


def as_computed(state: State) -> tuple[State, tuple[str, ...]]:
    """``state`` with each weight in one piece, as a layer in eval mode computes it, and a note where any was in parts.

    The names are those of ``torch.nn.utils``' weight_norm, spectral_norm and prune, and of its parametrizations.
    """
    result, joined = dict(state), []
    for name in state:
        for first, others, compute in _KINDS:
            if not name.endswith(first):
                continue
            layer = name.removesuffix(first)
            parts = [state.get(layer + part) for part in (first, *others)]
            tensors = [part for part in parts if part is not None]
            if len(tensors) == len(parts) and (weight := _computed(compute, tensors)) is not None:
                for part in (first, *others):
                    result.pop(layer + part, None)
                result[f"{layer}.weight"] = weight
                joined.append(f"{layer}.weight")
                break
    if not joined:
        return state, ()
    return result, (
        f"put weights together that the file has in parts (weight or spectral norm, pruning): {cut(joined, 3)}",
    )


def _computed(compute: Callable[..., Tensor], parts: list[Tensor]) -> Tensor | None:
    """The weight of ``parts``; None where their shapes don't fit."""
    try:
        weight = compute(*(part.float() for part in parts))
    except (RuntimeError, IndexError):
        return None
    return weight if weight.shape in {part.shape for part in parts} else None


def _normalised(length: Tensor, direction: Tensor) -> Tensor:
    """weight_norm: ``length`` has the size 1 in the dimensions that its norm is taken over."""
    over = [axis for axis, size in enumerate(length.shape) if size == 1]
    norm: Tensor = torch.linalg.vector_norm(direction, dim=over, keepdim=True)
    return length * direction / norm


def _spectral(weight: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """spectral_norm in eval mode: by the singular value that the stored vectors give."""
    return weight / torch.dot(u, weight.flatten(1) @ v)


_KINDS: tuple[tuple[str, tuple[str, ...], Callable[..., Tensor]], ...] = (
    (".weight_g", (".weight_v",), _normalised),
    (".parametrizations.weight.original0", (".parametrizations.weight.original1",), _normalised),
    (".weight_orig", (".weight_u", ".weight_v"), _spectral),
    (
        ".parametrizations.weight.original",
        (".parametrizations.weight.0._u", ".parametrizations.weight.0._v"),
        _spectral,
    ),
    (".weight_orig", (".weight_mask",), torch.mul),
)
"""The ends of the names of a weight's parts, and what the layer computes of them."""
