"""The states that a checkpoint may mean: entries of nested containers, and groups of names under one prefix.

A checkpoint often holds more than the network: averaged weights, losses, metrics. What the network is, is decided by
what fits an architecture; this module says in which order to try.
"""

import re
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from converter.errors import LoadError
from converter.load.state_dict import (
    EXPECTED,
    State,
    is_state,
    require_float_model,
    tensors_of_state,
    without_wrappers,
)
from zscgan_common.text import cut

# Averaged weights come first: they are what the authors of such checkpoints evaluate.
_EMA_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema")
PLAIN_KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "module")
_OPTIMIZER_KEYS = {"param_groups", "optimizer", "optimizer_state_dict", "scheduler", "lr_scheduler"}
_OTHERS = re.compile(
    r"optimizer|^optim$|^optim_|^opt$|sched|scaler|param_groups|^args$|^meta$|^hyper|callbacks|loops",
    re.IGNORECASE,
)
_TRAINING = re.compile(
    r"(^|_)(loss\w*|criteri\w+|metrics?|acc(uracy)?\d*|auc|auroc|f1|confmat|perceptual|lpips|discriminator|"
    r"ce|bce|precision|recall|iou|dice|kappa|queue(_ptr)?|(class|pos|loss)_weights?)(_|$)"
)
_METRIC = {"tp", "fp", "tn", "fn", "confmat", "correct", "total", "value", "max_value", "min_value"}
"""The states of torchmetrics."""
_AVERAGED = re.compile(r"(^|_)(ema|swa|averaged|teacher)(_|$)")
_DELAYED = re.compile(r"(^|_)(target|momentum|k)(_|$)")
_AVERAGES = "n_averaged"
"""AveragedModel's counter."""
_DEEPEST, _MOST = 4, 4
_LONGEST_WORD = 80

Entry = tuple[tuple[str, ...], Mapping[Any, Any]]
"""Named tensors in a container, and the keys that lead there."""


@dataclass(frozen=True)
class Candidate:
    """Weights that may be the network's, and what to tell of the choice where they are.

    ``words`` are the short texts beside them, such as the architecture's name among the arguments of the training.
    """

    state: State
    notes: tuple[str, ...] = ()
    words: frozenset[str] = frozenset()


def candidates_of(loaded: object, path: Path) -> tuple[Candidate, ...]:
    """The states inside what ``path`` held, the likeliest first.

    The usual entries come before others and larger states before smaller ones. Averaged (EMA) weights come first, but
    for MMEngine, which swaps the two when it saves. Raises LoadError where there are no named tensors.
    """
    found = _ranked(list(_entries(loaded, ())), loaded)[:_MOST]
    if not found:
        raise LoadError(_no_state(loaded, path))
    result: list[Candidate] = []
    words = frozenset(_words(loaded, 0))
    for keys, entry in found:
        state = tensors_of_state(entry)
        if not result:
            require_float_model(entry, state, path)
        note = _note_on_entry(keys, found, loaded, path.name)
        result += [Candidate(variant.state, note + variant.notes, words) for variant in variants(state)]
    return tuple(result)


def _words(value: object, depth: int) -> Iterator[str]:
    """The short texts in ``value`` that are no names of tensors."""
    if isinstance(value, str) and len(value) <= _LONGEST_WORD:
        yield value
    elif depth > _DEEPEST or is_state(value):
        return
    elif isinstance(value, Mapping | Namespace):
        for part in (value if isinstance(value, Mapping) else vars(value)).values():
            yield from _words(part, depth + 1)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _words(part, depth + 1)


def _note_on_entry(keys: tuple[str, ...], found: list[Entry], loaded: object, file: str) -> tuple[str, ...]:
    """What to say of the entry that the weights are from, where that's a choice."""
    name = "/".join(keys)
    if any(key in _EMA_KEYS for key in keys) and not _is_swapped(loaded):
        return (f"took the averaged (EMA) weights, entry {name!r} of {file}",)
    if len(found) > 1 and not any(key in PLAIN_KEYS for key in keys):
        others = [repr("/".join(other)) for other, _ in found if other != keys]
        return (f"took the weights in entry {name!r} of {file}, not those in {cut(others, 3)}",)
    return ()


def _no_state(loaded: object, path: Path) -> str:
    """The message for what holds no weights."""
    if not isinstance(loaded, Mapping):
        return f"{path} holds a {type(loaded).__name__}, no state_dict; {EXPECTED}"
    keys = cut([repr(key) for key in loaded], 8) or "none"
    if (loaded and set(loaded) & _OPTIMIZER_KEYS) or set(loaded) == {"state", "param_groups"}:
        return f"{path} holds the state of an optimizer and no weights (keys: {keys}); {EXPECTED}"
    return (
        f"{path} is a dictionary without a state_dict (keys: {keys}); expected names with tensors, or one of "
        f"the keys {', '.join(PLAIN_KEYS)} with them"
    )


def _entries(value: object, path: tuple[str, ...]) -> Iterator[Entry]:
    """Every mapping of names to tensors inside of ``value``, with the keys that lead there."""
    if is_state(value):
        assert isinstance(value, Mapping)
        yield path, value
    elif len(path) < _DEEPEST:
        parts: list[tuple[Any, Any]]
        if isinstance(value, Mapping):
            if "param_groups" in value:
                return
            parts = list(value.items())
        elif isinstance(value, list | tuple):
            parts = list(enumerate(value))
        else:
            return
        for key, part in parts:
            if not _OTHERS.search(str(key)):
                yield from _entries(part, (*path, str(key)))


def _ranked(entries: list[Entry], loaded: object) -> list[Entry]:
    usual = PLAIN_KEYS + _EMA_KEYS if _is_swapped(loaded) else _EMA_KEYS + PLAIN_KEYS

    def rank(entry: Entry) -> tuple[int, int]:
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
    counters, a copy of the same network. Then the whole; then, where the whole has one first part, what is behind it.
    """
    state = _unwrapped(state)
    groups = _groups(state)
    whole = [Candidate(state)] if state else []
    if len(groups) == 1 and all("." in key for key in state):
        ((name, group),) = groups.items()
        return (*whole, *_behind(name, group, state))
    ahead: list[Candidate] = []
    for name in sorted(groups, key=lambda name: _precedence(name, groups)):
        if _is_beside_training(name, groups, state):
            ahead += _behind(name, groups[name], state)
    return (*ahead, *whole)


def _unwrapped(state: State) -> State:
    return without_wrappers({name: x for name, x in state.items() if name != _AVERAGES})


def _is_beside_training(name: str, groups: Mapping[str, State], state: State) -> bool:
    """Whether the group ``name`` has layers, and all else in ``state`` is of the training or the same once more."""
    if sum("." in key for key in groups[name]) < 2 or _of_training(name):
        return False
    if any("." not in key and not _of_training(key, x) for key, x in state.items()):
        return False
    others = ((other, group) for other, group in groups.items() if other != name)
    return all(
        _of_training(other)
        or {key.rpartition(".")[2] for key in group} <= _METRIC
        or _is_copy(group, groups[name])
        for other, group in others
    )


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
        -weights_in(_unwrapped(groups[name])),
        not _AVERAGED.search(name),
        bool(_DELAYED.search(name)),
    )


def _is_copy(one: State, other: State) -> bool:
    """Whether two groups are the same network twice."""
    one, other = _unwrapped(one), _unwrapped(other)
    same = sum(name in other and other[name].shape == x.shape for name, x in one.items())
    return same >= 0.9 * max(len(one), 1)


def _behind(name: str, group: State, state: State) -> list[Candidate]:
    """``group`` of ``state`` as candidates, which tell of what they leave out."""
    left_out = [key for key in state if not key.startswith(f"{name}.")]
    note: tuple[str, ...] = ()
    if left_out:
        averaged = " (averaged weights)" if _AVERAGED.search(name) else ""
        note = (
            f"took the network under {name}.{averaged} and skipped what is beside it, {len(left_out)} tensors: "
            f"{cut(_first_parts(left_out), 4)}",
        )
    return [Candidate(inner.state, note + inner.notes) for inner in variants(group)]


def _first_parts(names: list[str]) -> list[str]:
    return list(dict.fromkeys(f"{n.partition('.')[0]}.*" if "." in n else n for n in names))


def weights_in(state: Mapping[str, Tensor]) -> int:
    """How many numbers ``state`` holds."""
    return sum(x.numel() for x in state.values())
