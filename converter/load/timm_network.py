"""A network of timm by its name."""

import importlib
from collections.abc import Mapping
from typing import Any

from torch import nn

from converter.errors import ArchitectureError, LoadError
from zscgan_common.text import first_line

TIMM_EXTRA = 'pip install "zscgan-convert[timm]"'


def network_of_timm(name: str, classes: int | None, channels: int | None, arguments: Mapping[str, Any]) -> nn.Module:
    """timm's network ``name`` without its weights; raises LoadError without timm, ArchitectureError for no such network."""
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise LoadError(f"timm builds timm:{name}: {TIMM_EXTRA} ({first_line(error)})") from error
    given = {"num_classes": classes, "in_chans": channels} | dict(arguments)
    try:
        network: nn.Module = timm.create_model(
            name, pretrained=False, **{key: value for key, value in given.items() if value is not None}
        )
    except Exception as error:  # timm raises what its builders do
        raise ArchitectureError(f"timm {timm.__version__} can't build {name}: {first_line(error)}") from error
    return network
