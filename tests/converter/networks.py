"""Small classifiers that each hold one structure which folding or placement must treat rightly."""

import torch
from torch import Tensor, nn


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """``model`` in eval mode with batch norms that do something; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(module.bias, 0, 0.1, generator=generator)
    return model.eval()


class Block(nn.Module):
    """A residual block; with a stride its shortcut is a convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return torch.relu_(y)


class Residual(nn.Module):
    """Stem with a max pool, a block with an identity, one with a convolution beside it, pool, linear."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        self.plain = Block(8, 8)
        self.down = Block(8, 12, stride=2)
        self.fc = nn.Linear(12, 5)

    def forward(self, x: Tensor, scale: bool = False, *, unused: int = 0) -> Tensor:
        x = self.down(self.plain(self.stem(x)))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Branches(nn.Module):
    """A concat of a branch that has a convolution of its own, one that has not, and a max pool."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, 1, 1)
        self.left = nn.Conv2d(6, 6, 3, 1, 1)
        self.right = nn.Conv2d(6, 6, 1)
        self.extra = nn.Conv2d(6, 4, 1)
        self.join = nn.Conv2d(18, 4, 1)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        left, right = torch.relu(self.left(x)), torch.relu(self.right(x))
        pooled = nn.functional.max_pool2d(x, 3, 1, 1)
        joined = torch.relu(self.join(torch.cat([left, right, pooled], 1)))
        return self.fc((joined + torch.relu(self.extra(left))).mean((2, 3)))


class Squeeze(nn.Module):
    """Depthwise convolution, squeeze-and-excitation, and a residual Add around both."""

    def __init__(self) -> None:
        super().__init__()
        self.expand = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.depthwise = nn.Sequential(
            nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.Hardswish()
        )
        self.fc1, self.fc2 = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.project = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.expand(x)
        y = self.depthwise(x)
        scale = torch.sigmoid(self.fc2(torch.relu(self.fc1(nn.functional.adaptive_avg_pool2d(y, 1)))))
        x = x + self.project(y * scale)
        return self.fc(x.mean((2, 3)))


class Upsampling(nn.Module):
    """Transposed convolutions, one of them in groups, and padding that is not the same on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.up1 = nn.ConvTranspose2d(8, 6, 2, 2, groups=2, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.up2 = nn.ConvTranspose2d(6, 4, 3, 2)
        self.bn2 = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(nn.functional.pad(x, (0, 1, 0, 1)))))
        x = torch.relu(self.bn1(self.up1(x)))
        return self.fc(torch.relu(self.bn2(self.up2(x))).mean((2, 3)))


class Perceptron(nn.Module):
    """Linear layers with a batch norm, one without scale and shift."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(48, 16, bias=False),
            nn.BatchNorm1d(16),
            nn.ReLU(),
            nn.Linear(16, 16),
            nn.BatchNorm1d(16, affine=False),
            nn.ReLU(),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Sequence(nn.Module):
    """Linear layers on a sequence, which ONNX writes as MatMul."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(3, 8)
        self.norm = nn.BatchNorm1d(16)  # over the sequence: must not be folded
        self.head = nn.Linear(8, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.embed(x.flatten(2).transpose(1, 2)))
        return self.head(torch.relu(x)).mean(1)


class PreActivation(nn.Module):
    """Batch norm before the convolution, and one whose input something else reads too."""

    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, 1, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, 1, 1)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(torch.relu(self.bn1(x)))
        x = x * self.conv2(torch.relu(self.bn2(x)))
        return self.fc(x.mean((2, 3)))


class Shared(nn.Module):
    """One convolution called three times: twice with one batch norm, once with another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, 1, 1)
        self.bn1, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        self.fc = nn.Linear(3, 5)

    def forward(self, x: Tensor) -> Tensor:
        for norm in (self.bn1, self.bn1, self.bn2):
            x = torch.relu(norm(self.conv(x)))
        return self.fc(x.mean((2, 3)))
