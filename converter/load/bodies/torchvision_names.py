"""torchvision's classifiers by name: built, with their pretrained weights, and these told by their digest."""

from functools import cache
from typing import Any

from torch import nn
from torchvision import models

_AUXILIARY = ("aux1", "aux2", "AuxLogits")
WITH_AUXILIARY = ("googlenet", "inception_v3")
"""Those that have classifiers which train and never run in eval mode."""


@cache
def names() -> tuple[str, ...]:
    """Every classifier of torchvision by name, without the quantized variants."""
    return tuple(models.list_models(module=models))


def default_weights(name: str) -> Any:
    """The entry of torchvision's weights enum that ``DEFAULT`` stands for."""
    return models.get_model_weights(name).DEFAULT


def released_weights(name: str, sha256: str) -> Any | None:
    """The released weights whose file has this SHA-256, or None; their file names hold its start."""
    for weights in models.get_model_weights(name):
        digest = weights.url.rpartition("-")[2].partition(".")[0]
        if len(digest) >= 8 and sha256.startswith(digest):
            return weights
    return None


def build(
    name: str, classes: int = 1000, *, transform_input: bool = False, image_size: int | None = None
) -> nn.Module:
    """A torchvision classifier without auxiliary classifiers.

    ``transform_input`` counts for GoogLeNet and Inception alone, ``image_size`` is for its vision transformers.
    """
    kwargs: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
    if name in WITH_AUXILIARY:
        kwargs = {"aux_logits": False, "init_weights": False, "transform_input": transform_input}
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **kwargs)
    return network


def load_pretrained(name: str) -> nn.Module:
    """A torchvision classifier with its default weights, from its cache or the network."""
    network: nn.Module = models.get_model(name, weights=default_weights(name))
    if name in WITH_AUXILIARY:
        for head in _AUXILIARY:
            setattr(network, head, None)
        network.aux_logits = False  # type: ignore[assignment]
    return network
