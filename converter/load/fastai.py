"""fastai's ``create_cnn_model``: the children of a ResNet in one Sequential, the head of ``create_head`` in another.

Only the names of fastai's state_dicts are numbers; ``0.4.0.conv1.weight`` is torchvision's ``layer1.0.conv1.weight``.
"""

import re

import torch
from torch import Tensor, nn

from converter.errors import ArchitectureError
from converter.load.state_dict import State

_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_BODY = re.compile(r"0\.(\d+)\.(.+)")
_HEAD = re.compile(r"1\.(\d+)\.(weight|bias|running_mean|running_var|num_batches_tracked)")


class ConcatPool(nn.Module):
    """The largest value of each channel, then the mean of each: fastai's AdaptiveConcatPool2d."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.amax((2, 3), keepdim=True), x.mean((2, 3), keepdim=True)], 1)


def is_fastai(state: State) -> bool:
    """Whether ``state`` has the names of a ResNet's body and of a head in fastai's Sequentials."""
    firsts = {found[1] for name in state if (found := _BODY.fullmatch(name))}
    return firsts == set(_CHILDREN) and all(_BODY.fullmatch(n) or _HEAD.fullmatch(n) for n in state)


def torchvision_body(state: State) -> State:
    """The body under torchvision's names, with a last layer of 1000 classes in the place of the head."""
    body = {
        f"{_CHILDREN[found[1]]}.{found[2]}": value
        for name, value in state.items()
        if (found := _BODY.fullmatch(name))
    }
    features = body[max(name for name in body if re.fullmatch(r"layer4\.\d+\.bn\d\.weight", name))]
    return body | {"fc.weight": torch.zeros(1000, len(features)), "fc.bias": torch.zeros(1000)}


def with_fastai_head(resnet: nn.Module, state: State) -> nn.Module:
    """``resnet``'s body and the head that ``state`` has, under fastai's names; weights are still to be filled.

    The head is [BatchNorm1d, Dropout, Linear] with a ReLU between: ``create_head`` puts one behind each Linear but the
    last. Raises ArchitectureError for a head of another kind.
    """
    *children, _, last = resnet.children()
    assert isinstance(last, nn.Linear)
    return nn.Sequential(nn.Sequential(*children), _head(state, last.in_features))


def _head(state: State, features: int) -> nn.Sequential:
    layers: dict[int, nn.Module] = {}
    for name, value in state.items():
        found = _HEAD.fullmatch(name)
        if found is None or found[2] != "weight":
            continue
        index = int(found[1])
        if f"1.{index}.running_mean" in state:
            layers[index] = nn.BatchNorm1d(len(value))
        elif value.dim() == 2:
            layers[index] = nn.Linear(value.shape[1], value.shape[0], bias=f"1.{index}.bias" in state)
    linear = sorted(index for index, layer in layers.items() if isinstance(layer, nn.Linear))
    if not linear:
        raise ArchitectureError("fastai's head has no Linear; expected that of create_head")
    width = state[f"1.{linear[0]}.weight"].shape[1]
    pools: dict[int, nn.Module] = {features: nn.AdaptiveAvgPool2d(1), 2 * features: ConcatPool()}
    if width not in pools or min(layers) < 2:
        raise ArchitectureError(
            f"fastai's head takes {width} features of a body with {features}; expected as many, or twice for its "
            "AdaptiveConcatPool2d. Build the network in a function: --arch file.py:callable"
        )
    layers |= {0: pools[width], 1: nn.Flatten()} | {index + 1: nn.ReLU() for index in linear[:-1]}
    return nn.Sequential(*(layers.get(index, nn.Identity()) for index in range(max(layers) + 1)))
