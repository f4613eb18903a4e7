"""The network that files beside the weights describe, built by timm or transformers."""

import re

from torch import nn

from converter.errors import ArchitectureError
from converter.load import architectures
from converter.load.bodies import timm_names
from converter.load.bodies.index import TIMM
from converter.load.published import Published
from converter.load.state_dict import State
from converter.load.transformers_network import network_of_transformers
from zscgan_common.text import shortened

_FETCHING = ("pretrained", "checkpoint", "cache")
"""How the arguments of timm's builder begin that read weights of other places."""


def network_of_published(published: Published, state: State) -> tuple[nn.Module, tuple[str, ...]]:
    """The network that ``published`` names, with ``state`` in it, and notes.

    Raises LoadError without its library, ArchitectureError where weights and description don't fit.
    """
    library, _, name = (published.arch or "").partition(":")
    assert published.folder is not None
    file = published.folder / "config.json"
    built = f"built {name} of {library}, which {file.name} names"
    if library == "transformers":
        network, notes = network_of_transformers(published.folder, name, state)
        return network, (built, *notes)
    network = _network_of_timm(name, published)
    try:
        return network, (built, *architectures.fit(network, state, published.arch or ""))
    except ArchitectureError as error:
        raise ArchitectureError(f"{file} may be of another network: {error}") from error


def _network_of_timm(name: str, published: Published) -> nn.Module:
    """timm's network ``name``, its weights still to be filled."""
    if not re.fullmatch(r"[\w.]+", name):  # timm takes others as places to fetch from
        raise ArchitectureError(
            f"expected the name of a network of timm in config.json, got {shortened(name, 60)}"
        )
    channels = None if published.shape is None else published.shape[0]
    arguments = {key: value for key, value in published.arguments.items() if not key.startswith(_FETCHING)}
    given = {"num_classes": published.classes, "in_chans": channels, **arguments}
    return timm_names.build(TIMM + name, **{key: value for key, value in given.items() if value is not None})
