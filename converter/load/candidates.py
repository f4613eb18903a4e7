"""The states that a checkpoint may mean: entries of nested containers, and groups of names under one prefix.

A checkpoint often holds more than the network: averaged weights, losses, metrics. What is the network is decided by what
fits an architecture; this module says in which order to try.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from converter.load.state_dict import State, is_state, tensors_of_state, without_wrappers
from zscgan_common.text import cut

# Averaged weights come first: they are what the authors of such checkpoints evaluate.
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
PLAIN_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "module")
_OTHERS = re.compile(r"optim|sched|scaler|param_groups|^args$|^meta$|^hyper|callbacks|loops", re.IGNORECASE)
_TRAINING = re.compile(
    r"(^|_)(loss\w*|criteri\w+|metrics?|acc(uracy)?\d*|auc|auroc|f1|confmat|perceptual|lpips|discriminator|"
    r"(class|pos|loss)_weights?)(_|$)"
)
_AVERAGED = re.compile(r"(^|_)(ema|swa|averaged|teacher)(_|$)")
_DELAYED = re.compile(r"(^|_)(target|momentum|k)(_|$)")
_DEEPEST, _MOST = 3, 4
_OF_A_BODY = 0.5
"""The least share of all weights that the body in front of a head has."""


@dataclass(frozen=True)
class Candidate:
    """Weights that may be the network's, and what to tell of the choice where they are."""

    state: State
    notes: tuple[str, ...] = ()


def candidates_of(loaded: object, file: str) -> tuple[Candidate, ...]:
    """The states inside what ``file`` held, the likeliest first; empty where it has no named tensors.

    The usual entries come before others and larger states before smaller ones. Averaged (EMA) weights come first, but
    for MMEngine, which swaps the two when it saves.
    """
    found = _ranked(list(_entries(loaded, ())), loaded)[:_MOST]
    result = []
    for path, entry in found:
        note: tuple[str, ...] = ()
        name = "/".join(path)
        if any(key in _EMA_KEYS for key in path) and not _is_swapped(loaded):
            note = (f"took the averaged (EMA) weights, entry {name!r} of {file}",)
        elif len(found) > 1 and not any(key in PLAIN_KEYS for key in path):
            others = [repr("/".join(other)) for other, _ in found if other != path]
            note = (f"took the weights in entry {name!r} of {file}, not those in {cut(others, 3)}",)
        result += [
            Candidate(variant.state, note + variant.notes) for variant in variants(tensors_of_state(entry))
        ]
    return tuple(result)


def _entries(
    value: object, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    """Every mapping of names to tensors inside of ``value``, with the keys that lead there."""
    if is_state(value):
        assert isinstance(value, Mapping)
        yield path, value
    elif len(path) < _DEEPEST:
        if isinstance(value, Mapping):
            parts = list(value.items())
        elif isinstance(value, list | tuple):
            parts = list(enumerate(value))
        else:
            return
        for key, part in parts:
            if not _OTHERS.search(str(key)):
                yield from _entries(part, (*path, str(key)))


def _ranked(
    entries: list[tuple[tuple[str, ...], Mapping[Any, Any]]], loaded: object
) -> list[tuple[tuple[str, ...], Mapping[Any, Any]]]:
    usual = PLAIN_KEYS + _EMA_KEYS if _is_swapped(loaded) else _EMA_KEYS + PLAIN_KEYS

    def rank(entry: tuple[tuple[str, ...], Mapping[Any, Any]]) -> tuple[int, int]:
        path, state = entry
        places = [usual.index(key) for key in path if key in usual]
        return min(places, default=len(usual)), -weights_in(tensors_of_state(state))

    return sorted(entries, key=rank)


def _is_swapped(loaded: object) -> bool:
    """Whether MMEngine made the checkpoint: its EMAHook saves the averaged weights as ``state_dict``."""
    if not isinstance(loaded, Mapping):
        return False
    meta = loaded.get("meta")
    return "message_hub" in loaded or (isinstance(meta, Mapping) and "mmengine_version" in meta)


def variants(state: State) -> tuple[Candidate, ...]:
    """The ways to read one state, the likeliest first.

    A group of names under one first part comes before the whole where all else belongs to training: losses, metrics,
    counters, a copy of the same network. Then the whole; then, where the whole has one first part, what is behind it;
    then the body and its head under the names of one network.
    """
    state = without_wrappers({name: x for name, x in state.items() if not _is_counter(name)})
    groups = _groups(state)
    ahead: list[Candidate] = []
    for name in sorted(groups, key=lambda name: _precedence(name, groups)):
        others = {other: groups[other] for other in groups if other != name}
        loose = [key for key, x in state.items() if "." not in key and not _of_training(key, x)]
        if not others and not any("." not in key for key in state):
            break
        if not loose and all(_of_training(other) or _is_copy(o, groups[name]) for other, o in others.items()):
            ahead += _behind(name, groups[name], state)
    whole = [Candidate(state)] if state else []
    stripped = _behind(next(iter(groups)), next(iter(groups.values())), state) if _is_prefixed(state) else []
    return (*ahead, *whole, *stripped, *_bodies_with_heads(state, groups))


def _is_counter(name: str) -> bool:
    return name in ("n_averaged", "num_updates", "initted", "step", "steps")


def _of_training(name: str, tensor: Tensor | None = None) -> bool:
    """Whether a group, or a tensor without one, is of the training alone."""
    if _AVERAGED.search(name) and tensor is None:
        return False  # a copy, or else a network of its own
    return bool(_TRAINING.search(name)) or (tensor is not None and tensor.numel() == 1)


def _groups(state: State) -> dict[str, State]:
    """The tensors by the first part of their names, without that part."""
    groups: dict[str, State] = {}
    for key, value in state.items():
        first, dot, rest = key.partition(".")
        if dot:
            groups.setdefault(first, {})[rest] = value
    return groups


def _precedence(name: str, groups: Mapping[str, State]) -> tuple[bool, int, bool, bool]:
    """The order of groups: no part of the training, the largest, averaged ones, not those that follow others."""
    return (
        _of_training(name),
        -weights_in(without_wrappers(groups[name])),
        not _AVERAGED.search(name),
        bool(_DELAYED.search(name)),
    )


def _is_copy(one: State, other: State) -> bool:
    """Whether two groups are the same network twice."""
    one, other = _inner(one), _inner(other)
    same = sum(name in other and other[name].shape == x.shape for name, x in one.items())
    return same >= 0.9 * max(len(one), 1)


def _inner(state: State) -> State:
    return without_wrappers({name: x for name, x in state.items() if not _is_counter(name)})


def _is_prefixed(state: State) -> bool:
    return len(_groups(state)) == 1 and all("." in key for key in state)


def _behind(name: str, group: State, state: State) -> list[Candidate]:
    """``group`` of ``state`` as candidates, which tell of what they leave out."""
    left_out = [key for key in state if not key.startswith(f"{name}.")]
    note: tuple[str, ...] = ()
    if left_out:
        averaged = " (averaged weights)" if _AVERAGED.search(name) else ""
        note = (
            f"took the network under {name}.{averaged} and skipped {len(left_out)} tensors beside it: "
            f"{cut(_first_parts(left_out), 4)}",
        )
    return [Candidate(inner.state, note + inner.notes) for inner in variants(group)]


def _first_parts(names: list[str]) -> list[str]:
    return list(dict.fromkeys(f"{n.partition('.')[0]}.*" if "." in n else n for n in names))


def _bodies_with_heads(state: State, groups: Mapping[str, State]) -> list[Candidate]:
    """A body under a name of its own and its head, as one network; MMPretrain's ``head.fc`` is torchvision's ``fc``."""
    if len(groups) < 2:
        return []
    name = max(groups, key=lambda name: weights_in(groups[name]))
    head = {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.fc.")}
    rest = {k: x for k, x in state.items() if not k.startswith((f"{name}.", "head.fc."))} | head
    body = without_wrappers(groups[name])
    if weights_in(body) < _OF_A_BODY * weights_in(state) or body.keys() & rest.keys():
        return []
    if len({key.partition(".")[0] for key in body}) < 3:  # a block or a Sequential, and no body
        return []
    return [Candidate(body | rest, (f"took {name}.* as the body and {cut(_first_parts(list(rest)), 3)} behind it",))]


def weights_in(state: Mapping[str, Tensor]) -> int:
    """How many numbers ``state`` holds."""
    return sum(x.numel() for x in state.values())
