"""Weights into the network that they are of."""

from collections import OrderedDict
from collections.abc import Mapping

from torch import Tensor, nn

from converter.errors import ArchitectureError
from converter.load.state_dict import State
from converter.load.user_module import FORMS
from zscgan_common.text import cut


def fit(network: nn.Module, state: State, name: str) -> tuple[str, ...]:
    """Copy ``state`` into ``network``, and a note on tensors of ``state`` that it lacks, which are skipped.

    Names begin where most of the network's own are found with their shapes, behind a prefix that others may lack.
    Counters may be absent. Raises ArchitectureError where anything else is absent or of another shape, or where the
    network knows no more than half of the tensors.
    """
    own = network.state_dict()
    named, beside = _behind_prefix(state, own)
    wrong = [
        f"{key}: {'x'.join(map(str, value.shape)) or 'a number'} in the file, "
        f"{'x'.join(map(str, own[key].shape)) or 'a number'} in the network"
        for key, value in named.items()
        if isinstance(own.get(key), Tensor) and own[key].shape != value.shape
    ]
    # Names are compared by PyTorch, so that a layer that renames old keys is heard.
    agreeing = OrderedDict((k, v) for k, v in named.items() if k not in own or own[k].shape == v.shape)
    # Without versions MNASNet refuses and others migrate.
    agreeing._metadata = own._metadata  # type: ignore[attr-defined]
    result = network.load_state_dict(agreeing, strict=False)
    absent = [k for k in result.missing_keys if k not in named and not k.endswith("num_batches_tracked")]
    unknown = list(result.unexpected_keys)
    if absent or wrong or 2 * len(unknown) > len(named):
        parts = [
            f"{len(keys)} {what}: {cut(keys, 3)}"
            for what, keys in (
                ("missing from the file", absent),
                ("unknown to the network", unknown + beside),
                ("of another shape", wrong),
            )
            if keys
        ]
        raise ArchitectureError(
            f"the weights don't fit {name}; tensors " + "; ".join(parts) + f". Check {FORMS}"
        )
    skipped = unknown + beside
    return (
        (f"skipped what {name} lacks, {len(skipped)} of the tensors: {cut(skipped, 3)}",) if skipped else ()
    )


def _behind_prefix(state: State, own: Mapping[str, Tensor]) -> tuple[State, list[str]]:
    """``state`` from the prefix on behind which most of the network's ``own`` tensors are, and the names without it."""
    ends = [key for key, value in own.items() if isinstance(value, Tensor) and value.dim()][:5]
    prefixes = {""} | {name.removesuffix(end) for name in state for end in ends if name.endswith(f".{end}")}

    def agreeing(prefix: str) -> tuple[int, int]:
        found = (state.get(prefix + key) for key in own)
        return sum(
            mine is not None and isinstance(value, Tensor) and mine.shape == value.shape
            for mine, value in zip(found, own.values(), strict=True)
        ), -len(prefix)

    best = max(prefixes, key=agreeing)
    named = {name.removeprefix(best): value for name, value in state.items() if name.startswith(best)}
    return named, [name for name in state if not name.startswith(best)]
