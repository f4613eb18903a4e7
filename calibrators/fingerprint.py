"""A name for a set of weights that changes when any of them does."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from calibrators.data.input_spec import InputSpec


def fingerprint(state: Mapping[str, Tensor]) -> str:
    """SHA-256 (hex) over the name, dtype, shape and bytes of each tensor, whatever their order and device."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        # repr quotes the name, so that no two states share a text
        digest.update(f"{name!r} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def fingerprint_for_input(weights: str, spec: InputSpec) -> str:
    """SHA-256 (hex) of the weights' fingerprint with the input: what ranges and caches are made for."""
    order = "" if spec.channel_order == "rgb" else f" {spec.channel_order}"
    text = f"{weights} InputSpec(shape={spec.shape}, mean={spec.mean}, std={spec.std}){order}"
    return hashlib.sha256(text.encode()).hexdigest()
