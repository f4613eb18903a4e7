"""Whether the normalisation of a network's inputs is read from the network, and how often it is taken for another one.

Small networks are trained on IMAGES (an .npz with ``images`` and ``labels``): each preset, in colour in both orders and
in grey, for first layers of four kinds. DATA is the folder of ``conversion.py`` with ``networks/*.onnx`` beside; its
networks come with what they were fed with. Each row says what was found and taken. Then each network is loaded with its
own normalisation typed, which must not be warned of, and with every other preset.

    python benchmarks/normalisation.py DATA --images train-10000.npz --json FILE
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from procedural import ONNX_NETWORKS
from quantizations import digits
from torch import Tensor, nn
from trial import NAMES, network_from_data, teacher_from_network

from calibrators.data.input_spec import PRESETS, ChannelOrder, InputSpec
from converter.load.nearest_preset import choose_normalisation, contradicts
from converter.load.normalisation import NormalisationEstimate, estimate_normalisation
from converter.load.onnx_file import source_from_model

LAYERS = {
    "3x3": nn.Conv2d(1, 24, 3, 1, 1, bias=False),
    "3x3, stride 2, bias": nn.Conv2d(1, 24, 3, 2, 1),
    "5x5, bias, no padding": nn.Conv2d(1, 24, 5, 1, 0),
    "7x7, stride 2": nn.Conv2d(1, 24, 7, 2, 3, bias=False),
}
"""First layers, of one channel."""
EPOCHS, BATCH, TRAINED_ON = 2, 64, 2500
STANDARDISED = ("imagenet", "cifar10")
"""Presets that count as one: their values differ less than two data sets do."""
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Subject:
    """A network and what it was fed with; ``preset`` is None where that is no usual normalisation."""

    name: str
    module: nn.Module
    spec: InputSpec
    preset: str | None


@dataclass(frozen=True)
class Row:
    """What was found in one network, and what would be taken for it.

    ``verdict`` is right, silent or wrong; ``order`` the same of the order of the channels, or empty where there is
    none. ``alarm`` says that the true normalisation would be warned of, ``noticed`` which others would.
    """

    name: str
    fed: str
    mean: tuple[float, ...]
    deviation: float
    r_squared: float
    taken: str
    verdict: str
    order: str
    alarm: bool
    noticed: tuple[str, ...]
    unnoticed: tuple[str, ...]


def at_hand(data: Path, work: Path) -> Iterator[Subject]:
    """The networks of ``data``, and the digits."""
    presets = {"resnet20": "imagenet", "resnet56": "imagenet", "efficientnet_lite0": "inception"}
    for name in NAMES:
        teacher = teacher_from_network(network_from_data(name, data, work))
        yield Subject(name, teacher.module, teacher.spec, presets[name])
    _, teacher = digits()
    yield Subject("digits", teacher.module, teacher.spec, None)
    usual = {"yolo-fastestv2": "unit", "yolo-fastestv2-folded": "unit", "espnetv2-1.0": "imagenet"}
    for name, network in ONNX_NETWORKS.items():
        path = data / "networks" / f"{name}.onnx"
        order: ChannelOrder = "bgr" if network.bgr else "rgb"
        spec = InputSpec(network.shape, network.mean, network.std, order)
        module = source_from_model(onnx.load(path), path).module
        yield Subject(name, module, spec, usual.get(name, "inception"))


def trained(path: Path) -> Iterator[Subject]:
    """Small networks, trained on the images of ``path``."""
    with np.load(path) as archive:
        images = torch.from_numpy(archive["images"][:TRAINED_ON]).permute(0, 3, 1, 2) / 255
        labels = torch.from_numpy(archive["labels"][:TRAINED_ON]).long()
    grey = (images * torch.tensor(LUMA).view(3, 1, 1)).sum(1, keepdim=True)
    for preset in PRESETS:
        for colours in ("rgb", "bgr", "grey"):
            if (preset, colours) in {("caffe", "rgb"), ("caffe", "grey"), ("cifar10", "grey")}:
                continue  # nobody's
            pixels, order = (grey, "rgb") if colours == "grey" else (images, colours)
            x, spec = normalised(pixels, preset, "bgr" if order == "bgr" else "rgb")
            for number, (kind, layer) in enumerate(LAYERS.items()):
                module = small_network(layer, len(spec.mean))
                train(module, x, labels, shifted=number % 2 == 1, adaptive=number % 2 == 1)
                yield Subject(f"{preset}, {colours}, {kind}", module.eval(), spec, preset)


def normalised(pixels: Tensor, preset: str, order: ChannelOrder) -> tuple[Tensor, InputSpec]:
    """The images as a network of this preset takes them."""
    _, channels, height, width = pixels.shape
    spec = InputSpec((channels, height, width), *PRESETS[preset].for_channels(channels, order), order)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    return ((pixels.flip(1) if order == "bgr" else pixels) - mean) / std, spec


def small_network(layer: nn.Conv2d, channels: int) -> nn.Sequential:
    """A classifier of ten classes behind a first layer such as ``layer``."""
    width, bias = layer.out_channels, layer.bias is not None
    size, stride, padding = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
    return nn.Sequential(
        nn.Conv2d(channels, width, size, stride, padding, bias=bias),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def train(module: nn.Module, x: Tensor, labels: Tensor, *, shifted: bool, adaptive: bool) -> None:
    """Two epochs; ``shifted`` moves the images by up to 4 pixels and fills with zeros."""
    make = torch.optim.Adam if adaptive else torch.optim.SGD
    options = {"lr": 2e-3} if adaptive else {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    optimizer = make(module.parameters(), **options)  # type: ignore[arg-type]
    module.train()
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(x)).split(BATCH):
            inputs = x[chosen]
            if shifted:
                top, left = torch.randint(0, 9, (2,)).tolist()
                height, width = inputs.shape[2:]
                inputs = F.pad(inputs, (4, 4, 4, 4))[:, :, top : top + height, left : left + width]
            optimizer.zero_grad()
            F.cross_entropy(module(inputs), labels[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def row_of(subject: Subject) -> Row:
    """What ``subject`` says of its input, beside what it was fed with."""
    spec = subject.spec
    shape = (spec.shape[0], spec.shape[1], spec.shape[2])
    estimate = estimate_normalisation(subject.module, shape)
    choice = choose_normalisation(estimate, shape)
    verdict, order = "silent", "" if shape[0] == 1 else "silent"
    if choice is not None:
        verdict = "right" if is_same(choice.name, subject.preset) else "wrong"
        if choice.told is not None:
            order = "right" if choice.told == spec.channel_order else "wrong"
    others = [name for name in PRESETS if not is_same(name, subject.preset) and fits(name, shape)]
    noticed = [
        name
        for name in others
        if is_noticed(estimate, InputSpec(shape, *PRESETS[name].for_channels(shape[0])))
    ]
    return Row(
        name=subject.name,
        fed=spec.flags,
        mean=() if estimate is None else estimate.mean,
        deviation=0.0 if estimate is None else estimate.deviation,
        r_squared=0.0 if estimate is None else estimate.r_squared,
        taken="" if choice is None else choice.flags,
        verdict=verdict,
        order=order,
        alarm=is_noticed(estimate, spec),
        noticed=tuple(noticed),
        unnoticed=tuple(name for name in others if name not in noticed),
    )


def fits(name: str, shape: tuple[int, int, int]) -> bool:
    """Whether a preset is a usual one of such inputs."""
    return shape[0] == 3 or name not in ("caffe", "cifar10")


def is_same(one: str | None, other: str | None) -> bool:
    """Whether two presets count as one."""
    return one == other or (one in STANDARDISED and other in STANDARDISED)


def is_noticed(estimate: NormalisationEstimate | None, spec: InputSpec) -> bool:
    """Whether a conversion would warn of ``spec``."""
    shape = (spec.shape[0], spec.shape[1], spec.shape[2])
    return estimate is not None and contradicts(estimate, spec, choose_normalisation(estimate, shape))


def line_of(row: Row) -> str:
    """The row of a table."""
    mean = ", ".join(f"{value:.3g}" for value in row.mean)
    found = f"({mean}), {row.deviation:.3g}, {row.r_squared:.3f}" if row.mean else "-"
    taken = row.taken or "-"
    return f"| {row.name} | `{row.fed}` | {found} | `{taken}` | {row.verdict} | {row.order or '-'} | {row.alarm} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    print("| network | fed with | mean, deviation, R² | taken | normalisation | order | false alarm |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    rows = []
    with TemporaryDirectory() as work:
        for subjects in (at_hand(args.data, Path(work)), trained(args.images)):
            for subject in subjects:
                rows.append(row_of(subject))
                print(line_of(rows[-1]), flush=True)
    print(f"normalisation {dict(Counter(row.verdict for row in rows))}")
    print(f"order {dict(Counter(row.order for row in rows if row.order))}")
    print(f"false alarms {sum(row.alarm for row in rows)} of {len(rows)}")
    noticed, unnoticed = (sum(len(getattr(row, name)) for row in rows) for name in ("noticed", "unnoticed"))
    print(f"wrong presets that are warned of: {noticed} of {noticed + unnoticed}")
    if args.json:
        args.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
