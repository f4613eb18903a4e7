"""Small networks of other tasks than one choice among classes, for ``--arch tests/converter/task_networks.py:NAME``."""

import torch
from torch import Tensor, nn


def layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def cells(side: int, stride: int) -> Tensor:
    """The centres of a map's cells in pixels."""
    places = (torch.arange(side) + 0.5) * stride
    y, x = torch.meshgrid(places, places, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2)


class Detector(nn.Module):
    """Scores of two classes and corners of boxes, at two strides of an input of 3x32x32."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(layer(3, 8, 2), layer(8, 16, 2))
        self.down = layer(16, 16, 2)
        self.scores, self.sides = nn.Conv2d(16, 2, 1), nn.Conv2d(16, 4, 1)
        self.register_buffer("centres", torch.cat([cells(8, 4), cells(4, 8)]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.stem(x)
        maps = fine, self.down(fine)
        scores = torch.cat([self.scores(some).flatten(2) for some in maps], dim=2).transpose(1, 2)
        sides = torch.cat([self.sides(some).flatten(2) for some in maps], dim=2).transpose(1, 2)
        sides = 8 * torch.sigmoid(sides)
        centres = self.get_buffer("centres")
        return torch.sigmoid(60 * scores - 15), torch.cat(
            [centres - sides[:, :, :2], centres + sides[:, :, 2:]], dim=2
        )


class BlindDetector(Detector):
    """Is sure of no box."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = super().forward(x)
        return 0.2 * scores, boxes


class Segmenter(nn.Module):
    """Logits of five classes for each pixel, in a dictionary as torchvision's are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = layer(3, 8, 2), layer(8, 8)
        self.head = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor | None]:
        maps = self.head(self.body(self.stem(x)))
        out = nn.functional.interpolate(maps, scale_factor=2.0, mode="bilinear", align_corners=False)
        return {"out": out, "aux": None}


class Plain(nn.Module):
    """A classifier without a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.head = nn.Linear(16, 7)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x).mean((2, 3)))
        return logits
