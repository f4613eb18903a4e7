"""Architectures as networks whose weights are still to be filled, with the head and the stem that the weights have."""

from typing import Any

import torch
from torch import Tensor, nn

from converter.errors import ArchitectureError
from converter.load.bodies import timm_names, torchvision_names
from converter.load.bodies.fit import Fit, Stem
from converter.load.bodies.uninitialised import Uninitialised


class _MaxAndMean(nn.Module):
    """Both poolings of an image side by side, as fastai's heads take them."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.amax((2, 3), keepdim=True), x.mean((2, 3), keepdim=True)], 1)


def network_from_fit(fit: Fit, **kwargs: Any) -> nn.Module:
    """The network of ``fit``, without its weights; ``kwargs`` go to the architecture's builder."""
    architecture, plain = fit.architecture, fit.head is None and fit.classes is not None
    classes = fit.classes if plain else 1
    with Uninitialised():
        if architecture.of_timm:
            channels = fit.stem.channels if fit.stem else 3
            if fit.classes is None:
                classes = 0
            if fit.image_size is not None:
                kwargs["img_size"] = fit.image_size
            network = timm_names.build(architecture.name, num_classes=classes, in_chans=channels, **kwargs)
        else:
            network = torchvision_names.build(
                architecture.name, classes or 1, image_size=fit.image_size, **kwargs
            )
        if fit.place is not None and fit.head is not None:
            network.set_submodule(fit.place, fit.head.build())
        elif fit.place is not None and not architecture.of_timm:
            network.set_submodule(fit.place, nn.Identity())
        if fit.stem is not None:
            for path in architecture.stem if fit.stem.bias else architecture.stem[:1]:
                _change_stem(network, path, fit.stem)
    if fit.pools_twice:
        _pool_twice(network, architecture.title)
    if fit.pools_to_one:
        network.set_submodule("avgpool", nn.AdaptiveAvgPool2d(1))
    return network


def _change_stem(network: nn.Module, path: str, stem: Stem) -> None:
    """Give the first convolution the channels of ``stem``; the small one has stride 1, and no max pool behind it."""
    old = network.get_submodule(path)
    assert isinstance(old, nn.Conv2d)
    size: dict[str, Any] = {"kernel_size": 3, "stride": 1, "padding": 1}
    if not stem.small:
        size = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding}
    if stem.small or stem.bias or old.in_channels != stem.channels:
        bias = stem.bias or old.bias is not None
        network.set_submodule(path, nn.Conv2d(stem.channels, old.out_channels, bias=bias, **size))
    if stem.small:
        pool = next(name for name, module in network.named_modules() if isinstance(module, nn.MaxPool2d))
        network.set_submodule(pool, nn.Identity())


def _pool_twice(network: nn.Module, title: str) -> None:
    """Put the pooling of fastai's heads in the place of the network's own; raises ArchitectureError."""
    # The last one: those before it are of squeeze-and-excitation.
    pools = [name for name, module in network.named_modules() if isinstance(module, nn.AdaptiveAvgPool2d)]
    if not pools:
        raise ArchitectureError(
            f"the head takes twice what {title} gives, as fastai's do, but its pooling is no module that could be "
            "replaced; name the network by a function that returns it: --arch file.py:callable"
        )
    network.set_submodule(pools[-1], _MaxAndMean())
