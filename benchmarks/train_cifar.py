"""Small networks trained on CIFAR-10: a ViT and a ConvNeXt, which have no batch norm, a VGG, a DenseNet, a MobileNetV2.

    python benchmarks/train_cifar.py vit train.npz vit.pth --minutes 30

The archive has ``images`` (uint8, N x 32 x 32 x 3) and ``labels``. ``build_vit`` and the others are what
``--arch benchmarks/train_cifar.py:build_vit`` of a conversion names; the networks are torchvision's, of few and narrow
layers.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VGG, DenseNet, MobileNetV2, VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.vgg import make_layers

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCH = 128


def build_vit() -> nn.Module:
    """Patches of 4, six layers of 128 channels: 0.8 M parameters."""
    return VisionTransformer(
        image_size=32, patch_size=4, num_layers=6, num_heads=4, hidden_dim=128, mlp_dim=256, num_classes=10
    )


def build_convnext() -> nn.Module:
    """Patches of 2, three stages of 48, 96 and 192 channels."""
    blocks = [CNBlockConfig(48, 96, 2), CNBlockConfig(96, 192, 2), CNBlockConfig(192, None, 2)]
    network = ConvNeXt(blocks, stochastic_depth_prob=0.05, layer_scale=0.1, num_classes=10)
    network.features[0][0] = nn.Conv2d(3, 48, 2, stride=2)  # of 4 for 224 x 224
    return network


def build_vgg() -> nn.Module:
    """Seven convolutions of 32 to 256 channels with batch norms, and one linear layer."""
    network = VGG(
        make_layers([32, 32, "M", 64, 64, "M", 128, 128, "M", 256, "M"], batch_norm=True), num_classes=10
    )
    network.avgpool = nn.AdaptiveAvgPool2d(1)
    network.classifier = nn.Linear(256, 10)
    return network


def build_densenet() -> nn.Module:
    """Three blocks of four layers, each of 16 channels, without the pooling at the start."""
    network = DenseNet(16, (4, 4, 4), 32, num_classes=10)
    network.features.pool0 = nn.Identity()
    return network


def build_mobilenet() -> nn.Module:
    """Ten blocks at half the width, two of them of stride 2."""
    blocks = [[1, 16, 1, 1], [4, 24, 2, 1], [4, 32, 2, 2], [4, 64, 2, 2], [4, 96, 1, 1]]
    network = MobileNetV2(num_classes=10, width_mult=0.5, inverted_residual_setting=blocks, dropout=0.0)
    network.features[0][0] = nn.Conv2d(3, 16, 3, padding=1, bias=False)  # of stride 2 for 224 x 224
    return network


BUILDERS = {
    "vit": build_vit,
    "convnext": build_convnext,
    "vgg": build_vgg,
    "densenet": build_densenet,
    "mobilenet": build_mobilenet,
}


def normalised(images: Tensor) -> Tensor:
    """uint8 (n, 32, 32, 3) as the network takes it."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.permute(0, 3, 1, 2) / 255 - mean) / std


def augmented(x: Tensor) -> Tensor:
    """Flipped by chance, and shifted by up to 4 pixels."""
    x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
    padded = F.pad(x, (4, 4, 4, 4))
    rows, columns = torch.randint(0, 9, (2, len(x))).tolist()
    return torch.stack(
        [image[:, r : r + 32, c : c + 32] for image, r, c in zip(padded, rows, columns, strict=True)]
    )


def mixed(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mixup (arXiv 1710.09412)."""
    share = float(np.random.default_rng().beta(0.8, 0.8))
    order, labels = torch.randperm(len(x)), F.one_hot(y, 10).float()
    return x.lerp(x[order], 1 - share), labels.lerp(labels[order], 1 - share)


def train(network: nn.Module, x: Tensor, y: Tensor, minutes: float) -> None:
    """One cycle of the learning rate in ``minutes`` of this process's own time."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=0.05)
    started, epoch = time.process_time(), 0
    network.train()
    while (done := (time.process_time() - started) / 60 / minutes) < 1:
        for chosen in torch.randperm(len(x)).split(BATCH):
            done = min(1.0, (time.process_time() - started) / 60 / minutes)
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * min(1.0, done * 20) * 0.5 * (1 + np.cos(np.pi * done))
            inputs, labels = mixed(augmented(x[chosen]), y[chosen])
            optimizer.zero_grad()
            F.cross_entropy(network(inputs), labels).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        epoch += 1
        print(f"epoch {epoch}, {100 * done:.0f} % of the time", flush=True)


def main() -> None:
    """Train and save the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=BUILDERS)
    parser.add_argument("images", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--minutes", type=float, default=30.0)
    args = parser.parse_args()
    torch.manual_seed(0)
    with np.load(args.images) as archive:
        x, y = normalised(torch.from_numpy(archive["images"])), torch.from_numpy(archive["labels"]).long()
    network = BUILDERS[args.network]()
    train(network, x, y, args.minutes)
    torch.save(network.state_dict(), args.weights)


if __name__ == "__main__":
    main()
