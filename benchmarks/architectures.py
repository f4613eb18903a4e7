"""Networks that the benchmarks need and torchvision lacks; each is called without arguments (``--arch``)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A: subsample, then pad the channels)."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.pad = (planes - in_planes) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Output of the block, [batch, planes, height / stride, width / stride]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        return F.relu(y + shortcut)


class CifarResNet(nn.Module):
    """ResNet for 32x32 images (He et al. 2016, section 4.2).

    Names of the layers are those of https://github.com/akamaster/pytorch_resnet_cifar10.
    """

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks)
        self.layer2 = self._stage(16, 32, blocks)
        self.layer3 = self._stage(32, 64, blocks)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(in_planes: int, planes: int, blocks: int) -> nn.Sequential:
        first = BasicBlock(in_planes, planes, 1 if in_planes == planes else 2)
        return nn.Sequential(first, *(BasicBlock(planes, planes, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [batch, classes]."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.layer3(self.layer2(self.layer1(y)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(y, 1), 1))
        return logits


def resnet20() -> nn.Module:
    """CIFAR-10 ResNet-20, 0.27 million parameters."""
    return CifarResNet(3)


def resnet56() -> nn.Module:
    """CIFAR-10 ResNet-56, 0.85 million parameters."""
    return CifarResNet(9)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 for ImageNet, from the package efficientnet-lite-pytorch."""
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    return network
