"""torchvision's names for the tensors of files that have others."""

import re
from collections.abc import Iterable

# They train and never run in eval mode: the classifiers of GoogLeNet and Inception, the token of masked patches.
_AUXILIARY = re.compile(r"(?:^|\.)(?:(?:aux1|aux2|AuxLogits)\.|mask_token$)")
_OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.")
_SHORTCUT = re.compile(r"(layer\d+\.\d+)\.shortcut\.")
_NAMED_BY_STAGE = re.compile(r"(?:^|\.)conv2_x\.0\.residual_function\.0\.weight$")
"""In a ResNet whose stages are conv2_x to conv5_x, as the paper calls them."""
_STAGE = re.compile(r"(^|\.)conv([2-5])_x\.(\d+)\.")
_STEP = re.compile(r"\.residual_function\.(\d+)\.")
_STEM = re.compile(r"(^|\.)conv1\.([01])\.")


def own_names(shapes: Iterable[str]) -> dict[str, str]:
    """torchvision's name for each name of a file: DenseNet's of before 2018, a ResNet's shortcut, or its stages.

    What never runs in eval mode is left out.
    """
    kept = [name for name in shapes if not _AUXILIARY.search(name)]
    by_stage = any(_NAMED_BY_STAGE.search(name) for name in kept)
    names = {name: _of_stage(name) if by_stage else name for name in kept}
    return {
        name: _SHORTCUT.sub(r"\1.downsample.", _OLD_DENSENET.sub(r"\1\2.", new))
        for name, new in names.items()
    }


def _of_stage(name: str) -> str:
    """torchvision's name for one of a ResNet whose stages are ``conv2_x`` to ``conv5_x``."""

    def step(found: re.Match[str]) -> str:
        place, number = divmod(int(found[1]), 3)  # convolution, batch norm, ReLU
        return f".{('conv', 'bn', 'relu')[number]}{place + 1}."

    name = _STEM.sub(lambda found: f"{found[1]}{('conv1', 'bn1')[int(found[2])]}.", name)
    name = _STAGE.sub(lambda found: f"{found[1]}layer{int(found[2]) - 1}.{found[3]}.", name)
    return _STEP.sub(step, name)
