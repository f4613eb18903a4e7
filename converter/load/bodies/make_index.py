"""Writes the index of architectures anew, from the torchvision and timm that are installed.

    python -m converter.load.bodies.make_index [PROCESSES]

takes a quarter of an hour, and needs the extra ``timm``. Each architecture is built without memory for its weights.
Those with equal names and shapes are one entry where they compute the same: where their modules have the same classes
and attributes, else where both give the same outputs, in float64, for the same random weights and images.
"""

import gzip
import json
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from converter.load.bodies.index import FILE, TIMM
from converter.load.bodies.tree import Node, Shape, at, tree_of
from converter.load.bodies.uninitialised import Uninitialised

_IRRELEVANT = re.compile(
    r"^_|training|drop|num_classes|img_size|default_cfg|pretrained_cfg|checkpoint|in_chans|out_features"
)
"""Attributes of modules that change nothing of what these compute in eval mode, or that the shapes say."""
_LARGEST = 60e6
"""Parameters up to which outputs of timm's networks are compared; larger ones with other attributes count as others."""


class WeightsOnMeta(TorchFunctionMode):
    """New weights have a shape and no memory.

    ``torch.device("meta")`` would also take the values that RegNet computes its widths from.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones) and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


class _Unclamped(Uninitialised):
    """Nothing is clamped either, which takes most of the time of a truncated normal distribution without memory."""

    skipped = (*Uninitialised.skipped, torch.Tensor.clamp_)


@dataclass(frozen=True)
class Built:
    """An architecture as it was built, without its weights."""

    name: str
    tree: Node
    head: tuple[str, ...]
    stem: tuple[str, ...]
    children: tuple[str, ...]
    fingerprint: str
    parameters: int
    fixed_size: int | None


def make_index(folder: Path, names: Sequence[str], processes: int) -> None:
    """Write the index of the architectures ``names`` into ``folder``."""
    with Pool(processes) as pool:
        groups: dict[tuple[Any, ...], list[Built]] = {}
        lines: dict[str, int] = {}
        for built in pool.imap(built_from_name, names, chunksize=8):
            print(built.name, file=sys.stderr)
            key = (_line(built.tree, lines), built.head, built.stem)
            groups.setdefault(key, []).append(built)
        same = pool.map(_computing_the_same, groups.values(), chunksize=1)
    entries = [
        {
            "name": first.name,
            "same": [other.name for other in others],
            "line": line,
            "head": head,
            "stem": stem,
            "children": first.children,
        }
        for (line, head, stem), parts in zip(groups, same, strict=True)
        for first, *others in parts
    ]
    raw = {
        "versions": {name: version(name).partition("+")[0] for name in ("torchvision", "timm")},
        "lines": list(lines),
        "architectures": entries,
    }
    content = json.dumps(raw, separators=(",", ":")).encode()
    (folder / FILE).write_bytes(gzip.compress(content, 9, mtime=0))


def all_names() -> list[str]:
    """Every classifier of both libraries, torchvision's first, as ``--arch`` takes them."""
    import timm
    from torchvision import models

    return [*models.list_models(module=models), *(TIMM + name for name in timm.list_models(pretrained=False))]


def built_from_name(name: str) -> Built:
    """The architecture ``name`` as it is built here."""
    return _of_timm(name.removeprefix(TIMM)) if name.startswith(TIMM) else _of_torchvision(name)


def _line(tree: Node, lines: dict[str, int]) -> int:
    """The number of the line of ``tree`` in ``lines``, to which it and the lines below it are added."""
    items = [
        f"{name}:{_line(child, lines)}" if isinstance(child, Node) else f"{name}={'x'.join(map(str, child))}"
        for name, child in tree.children.items()
    ]
    return lines.setdefault(" ".join(items), len(lines))


def _of_torchvision(name: str) -> Built:
    from torchvision import models

    network = _on_meta(lambda: _created(name, 1000))
    head = _changed(network, _on_meta(lambda: _created(name, 7)))
    (crop,) = set(models.get_model_weights(name).DEFAULT.transforms().crop_size)
    fixed = crop if name.startswith("vit_") else None
    return _built(name, network, head, _first_convolution(network), fixed)


def _of_timm(name: str) -> Built:
    network = _on_meta(lambda: _created(TIMM + name, 1000))
    config: dict[str, Any] = dict(vars(network)["pretrained_cfg"])
    head, stem = _paths(config.get("classifier")), _paths(config.get("first_conv"))
    if not head or any(at(_tree(network), f"{path}.weight") is None for path in head):
        head = _changed(network, _on_meta(lambda: _created(TIMM + name, 7)))
    if not stem or any(not _takes_images(network, path) for path in stem):
        stem = _first_convolution(network)
    shape = config.get("input_size")
    fixed = shape[-1] if shape and config.get("fixed_input_size") else None
    return _built(TIMM + name, network, head, stem, fixed)


def _on_meta(create: Callable[[], nn.Module]) -> nn.Module:
    """What ``create`` builds, without memory for the weights."""
    try:
        with torch.device("meta"), _Unclamped():
            return create()
    except (RuntimeError, NotImplementedError):  # of those that compute with values
        with WeightsOnMeta():
            return create()


def _paths(given: Any) -> tuple[str, ...]:
    """The modules that an entry of timm's configuration names, one or several."""
    return (given,) if isinstance(given, str) else tuple(given or ())


def _built(
    name: str,
    network: nn.Module,
    head: tuple[str, ...],
    stem: tuple[str, ...],
    fixed: int | None,
) -> Built:
    return Built(
        name=name,
        tree=_tree(network),
        head=head,
        stem=stem,
        children=tuple(child for child, _ in network.named_children()),
        fingerprint=_fingerprint(network),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        fixed_size=fixed,
    )


def _tree(network: nn.Module) -> Node:
    return tree_of({key: _shape(value) for key, value in network.state_dict().items()})


def _shape(value: Any) -> Shape:
    return tuple(value.shape) if isinstance(value, Tensor) else ()


def _changed(network: nn.Module, other: nn.Module) -> tuple[str, ...]:
    """The modules whose tensors have another shape in ``other``, with another number of classes."""
    theirs = other.state_dict()
    names = [name for name, value in network.state_dict().items() if theirs[name].shape != value.shape]
    return tuple(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _takes_images(network: nn.Module, path: str) -> bool:
    weight = network.state_dict().get(f"{path}.weight")
    return weight is not None and weight.dim() == 4 and weight.shape[1] == 3


def _first_convolution(network: nn.Module) -> tuple[str, ...]:
    """The first convolution that takes images of 3 channels; empty where there is none."""
    found = (
        name
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and module.groups == 1
    )
    return tuple(name for name in [next(found, None)] if name is not None)


def _fingerprint(network: nn.Module) -> str:
    """A digest of classes and attributes of all modules, in their order."""
    text = [repr(network)]
    for path, module in network.named_modules():
        kind = type(module)
        values = {
            key: value
            if isinstance(value, int | float | str | tuple | None)
            else getattr(value, "__name__", "")
            for key, value in vars(module).items()
            if not _IRRELEVANT.search(key) and not isinstance(value, Tensor)
        }
        text.append(f"{path} {kind.__module__}.{kind.__qualname__} {values}")
    return sha256("\n".join(text).encode()).hexdigest()


def _computing_the_same(members: list[Built]) -> list[list[Built]]:
    """``members`` in groups of those that compute the same, each in the order given."""
    groups: list[list[Built]] = []
    for member in members:
        for group in groups:
            if any(member.fingerprint == other.fingerprint for other in group):
                group.append(member)
                break
        else:
            match = (group for group in groups if _same_outputs(group[0], member))
            found = next(match, None)
            groups.append([member]) if found is None else found.append(member)
    return groups


def _same_outputs(one: Built, other: Built) -> bool:
    """Whether both give the same for the same random weights and images."""
    if one.name.startswith(TIMM) and max(one.parameters, other.parameters) > _LARGEST:
        return False
    for size in [size for size in (one.fixed_size, other.fixed_size) if size] or [96, 224]:
        first, second = _output(one.name, size), _output(other.name, size)
        if first is not None and second is not None:
            return first.shape == second.shape and torch.allclose(first, second, rtol=1e-9, atol=1e-12)
    return False


@lru_cache(32)
def _output(name: str, size: int) -> Tensor | None:
    """What the architecture computes with the weights and images of a fixed seed; None for a size that it refuses."""
    with Uninitialised():
        network = _created(name, 1000).double().eval()
    generator = torch.Generator().manual_seed(0)
    for key, value in sorted(network.state_dict().items()):
        if value.is_floating_point():
            random = torch.rand(value.shape, generator=generator, dtype=torch.float64)
            if key.endswith("running_var") or value.dim() == 1:
                value.copy_(random + 0.5)
            else:
                value.copy_((random - 0.5) * (12 / max(value[0].numel(), 1)) ** 0.5)
    images = torch.rand((1, 3, size, size), generator=generator, dtype=torch.float64)
    try:
        with torch.no_grad():
            result: Tensor = network(images)
    except Exception:  # noqa: BLE001 - which sizes suit is not said anywhere
        return None
    return result if torch.isfinite(result).all() else None


def _created(name: str, classes: int) -> nn.Module:
    """The architecture ``name``, without the auxiliary classifiers that never run in eval mode."""
    if name.startswith(TIMM):
        import timm

        return timm.create_model(name.removeprefix(TIMM), num_classes=classes)
    from torchvision import models

    auxiliary = name in ("googlenet", "inception_v3")
    extra = {"aux_logits": False, "init_weights": False} if auxiliary else {}
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **extra)
    return network


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    make_index(Path(__file__).parent, all_names(), processes=int(sys.argv[1]) if sys.argv[1:] else 2)
