"""timm's architectures by name: built, or loaded with their pretrained weights."""

import difflib
from typing import Any

from torch import nn

from converter.errors import ArchitectureError, LoadError
from converter.load.bodies.hub import require_hub
from converter.load.bodies.index import TIMM
from zscgan_common.text import first_line


def build(name: str, **kwargs: Any) -> nn.Module:
    """timm's network ``name``, which begins with ``timm:``, without its weights.

    ``kwargs`` are those of ``timm.create_model``. Raises ArchitectureError for names and arguments that timm refuses.
    """
    timm = _timm(name)
    try:
        network: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=False, **kwargs)
    except Exception as error:  # its builders check their arguments in their own ways
        raise ArchitectureError(_refusal(timm, name, error)) from error
    return network


def load_pretrained(name: str) -> nn.Module:
    """timm's network ``name`` with its pretrained weights, from the cache of the hub or the network.

    Raises LoadError where there are none or they can't be fetched.
    """
    timm = _timm(name)
    plain = name.removeprefix(TIMM)
    if not timm.is_model(plain):
        raise LoadError(_refusal(timm, name, None))
    if not timm.is_model_pretrained(plain):
        raise LoadError(
            f"timm has no pretrained weights for {plain}; give a file of weights, with --arch {name}"
        )
    try:
        weights = timm.get_pretrained_cfg(plain)
        if weights.hf_hub_id and not weights.hf_hub_filename:
            require_hub(weights.hf_hub_id)
        network: nn.Module = timm.create_model(plain, pretrained=True)
    except Exception as error:  # the hub's client and the network raise errors of many libraries
        raise LoadError(
            f"the weights of {name} can't be loaded ({first_line(error)}); where the network can be reached, type "
            f"python -c \"import timm; timm.create_model('{plain}', pretrained=True)\" and copy the folder "
            "~/.cache/huggingface here"
        ) from error
    return network


def _timm(name: str) -> Any:
    """The package timm; raises ArchitectureError where it isn't installed."""
    try:
        import timm
    except ImportError as error:
        raise ArchitectureError(
            f"the network is timm's {name.removeprefix(TIMM)}; building it requires timm: pip install "
            "'zscgan-convert[timm]'"
        ) from error
    return timm


def _refusal(timm: Any, name: str, error: Exception | None) -> str:
    """The message for a name that timm doesn't know, or for arguments that it refuses."""
    plain = name.removeprefix(TIMM)
    if timm.is_model(plain) and error is not None:
        return f"timm {timm.__version__} failed to build {plain}: {type(error).__name__}: {first_line(error)}"
    near = difflib.get_close_matches(plain, timm.list_models(), n=3, cutoff=0.6)
    hint = f" (did you mean {', '.join(TIMM + other for other in near)}?)" if near else ""
    return f"timm {timm.__version__} has no model {plain}{hint}"
