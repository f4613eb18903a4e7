"""Weights into the network that they are of."""

from collections import OrderedDict

from torch import Tensor, nn

from converter.errors import ArchitectureError
from converter.load.state_dict import State, without_common_prefix
from converter.load.user_module import FORMS
from zscgan_common.text import cut


def fit(network: nn.Module, state: State, name: str) -> None:
    """Copy ``state`` into ``network``, whose names and shapes must agree; counters may be absent.

    Where no name agrees, a first part that all names of ``state`` share is dropped. Raises ArchitectureError.
    """
    own = network.state_dict()
    stripped = without_common_prefix(state)
    if stripped is not None and not own.keys() & state.keys() and own.keys() & stripped.keys():
        state = stripped
    wrong = [
        f"{key}: {'x'.join(map(str, value.shape)) or 'a number'} in the file, "
        f"{'x'.join(map(str, own[key].shape)) or 'a number'} in the network"
        for key, value in state.items()
        if isinstance(own.get(key), Tensor) and own[key].shape != value.shape
    ]
    # Names are compared by PyTorch, so that a layer that renames old keys is heard.
    agreeing = OrderedDict((k, v) for k, v in state.items() if k not in own or own[k].shape == v.shape)
    # Without versions MNASNet refuses and others migrate.
    agreeing._metadata = own._metadata  # type: ignore[attr-defined]
    result = network.load_state_dict(agreeing, strict=False)
    absent = [k for k in result.missing_keys if k not in state and not k.endswith("num_batches_tracked")]
    parts = [
        f"{len(keys)} {what}: {cut(keys, 3)}"
        for what, keys in (
            ("missing from the file", absent),
            ("unknown to the network", list(result.unexpected_keys)),
            ("of another shape", wrong),
        )
        if keys
    ]
    if parts:
        raise ArchitectureError(
            f"the weights don't fit {name}; tensors " + "; ".join(parts) + f". Check {FORMS}"
        )
