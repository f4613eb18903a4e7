"""Small classifiers with one construct each, written as strangers publish them."""

import warnings
from collections.abc import Callable
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.ops import DeformConv2d, FrozenBatchNorm2d, StochasticDepth

from tests.converter.networks import randomised

WIDTH, SIZE = 8, 16
"""Channels behind the stem, which halves images of this size."""


CONSTRUCTS: dict[str, Callable[[], nn.Module]] = {}


def enter(name: str, make: Callable[[], nn.Module]) -> None:
    """Enter a network under a name of its own."""
    assert name not in CONSTRUCTS, name
    CONSTRUCTS[name] = make


def network(name: str) -> nn.Module:
    """The network of that name, the same in every process."""
    torch.manual_seed(0)
    return randomised(CONSTRUCTS[name]())


class Stem(nn.Sequential):
    """Convolution, batch norm and ReLU: 8 channels of half the size."""

    def __init__(self, channels: int = WIDTH) -> None:
        super().__init__(
            nn.Conv2d(3, channels, 3, 2, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )


class Classifier(nn.Module):
    """The stem, ``body``, which gives ``channels``, a global average and a linear layer."""

    def __init__(self, body: nn.Module, channels: int = WIDTH) -> None:
        super().__init__()
        self.stem, self.body, self.fc = Stem(), body, nn.Linear(channels, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.stem(x)).mean((2, 3)))


class Call(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def enter_body(name: str, make: Callable[[], nn.Module], channels: int = WIDTH) -> None:
    """Enter a body between the stem and the head."""
    enter(name, lambda: Classifier(make(), channels))


def enter_function(name: str, function: Callable[[Tensor], Tensor], channels: int = WIDTH) -> None:
    """Enter a function between two convolutions."""
    enter_body(
        name,
        lambda: nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.BatchNorm2d(WIDTH),
            Call(function),
            nn.Conv2d(channels, WIDTH, 1),
        ),
    )


# Activations.


def h_swish(x: Tensor) -> Tensor:
    return x * F.relu6(x + 3, inplace=True) / 6


def gated(x: Tensor) -> Tensor:
    content, gate = x.chunk(2, dim=1)
    return content * torch.sigmoid(gate)


def maxout(x: Tensor) -> Tensor:
    return x.view(x.size(0), 2, -1, x.size(2), x.size(3)).max(dim=1)[0]


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


SMOOTH: tuple[Callable[[Tensor], Tensor], ...] = (
    F.celu, F.elu, F.gelu, F.logsigmoid, F.mish, F.selu, F.silu, F.softplus, F.softsign, torch.tanh, quick_gelu,
    nn.GELU(approximate="tanh"),
)  # fmt: skip
BOUNDED: tuple[Callable[[Tensor], Tensor], ...] = (
    F.hardsigmoid, F.hardswish, F.hardtanh, F.hardshrink, F.leaky_relu, F.relu6, F.softshrink, h_swish,
    nn.Threshold(0.1, 0.2), lambda x: x.clamp(min=-0.5, max=2.0), lambda x: F.relu(x).pow(2),
)  # fmt: skip


def side_by_side(functions: tuple[Callable[[Tensor], Tensor], ...]) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.cat([function(x) for function in functions], dim=1)


def one_by_one(*functions: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda x: reduce(lambda value, function: function(value), functions, x)


enter_function("smooth activations", side_by_side(SMOOTH), WIDTH * len(SMOOTH))
enter_function("bounded activations", side_by_side(BOUNDED), WIDTH * len(BOUNDED))
enter_function("gates", side_by_side((lambda x: F.glu(x, dim=1), gated, maxout)), WIDTH // 2 * 3)
enter_body(
    "slopes",
    lambda: nn.Sequential(
        nn.Conv2d(8, 8, 3),
        nn.PReLU(WIDTH),
        nn.Conv2d(8, 8, 3),
        nn.RReLU(),
        nn.Conv2d(8, 8, 1),
        nn.Softmax2d(),
    ),
)


# Normalisations.


class ChannelsFirstNorm(nn.Module):
    """ConvNeXt's layer norm over the channels."""

    def __init__(self, channels: int = WIDTH) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(channels)), nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


class ResponseNorm(nn.Module):
    """ConvNeXt V2's global response normalisation, channels last."""

    def __init__(self, channels: int = WIDTH) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.rand(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        gx = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        nx = gx / (gx.mean(dim=-1, keepdim=True) + 1e-6)
        return (self.gamma * (x * nx) + self.beta + x).permute(0, 3, 1, 2)


class RootMeanSquareNorm(nn.Module):
    """LLaMA's norm over the channels."""

    def __init__(self, channels: int = WIDTH) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1).float()
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.weight * x).permute(0, 3, 1, 2)


NORMS: dict[str, Callable[[], nn.Module]] = {
    "norms of images": lambda: nn.Sequential(
        nn.GroupNorm(4, WIDTH), nn.InstanceNorm2d(WIDTH, affine=True), nn.LocalResponseNorm(3)
    ),
    "layer norms": lambda: nn.Sequential(
        FrozenBatchNorm2d(WIDTH),
        nn.BatchNorm2d(WIDTH, affine=False),
        nn.LayerNorm([WIDTH, 8, 8]),
        ChannelsFirstNorm(),
    ),
    "norms of channels last": lambda: nn.Sequential(ResponseNorm(), RootMeanSquareNorm()),
    "l2 norm": lambda: Call(lambda x: F.normalize(x, p=2, dim=1) * 3),
}


def normed(norm: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Conv2d(WIDTH, WIDTH, 3, padding=1), norm(), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1)
    )


for name, norm in NORMS.items():
    enter_body(name, normed(norm))


# Pools, pads, resampling and other movements of data, each between two convolutions.


def generalised_mean(x: Tensor) -> Tensor:
    return F.avg_pool2d(x.clamp(min=1e-6).pow(3.0), (x.size(-2), x.size(-1))).pow(1.0 / 3)


def statistics(x: Tensor) -> Tensor:
    return torch.cat([x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)], dim=1)


def spatial_pyramid(x: Tensor) -> Tensor:
    pools = [F.max_pool2d(x, size, stride=1, padding=size // 2) for size in (5, 3)]
    return torch.cat([x, *pools], dim=1)


def channel_shuffle(x: Tensor) -> Tensor:
    batch, channels, height, width = x.size()
    x = x.view(batch, 2, channels // 2, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, -1, height, width)


def focus(x: Tensor) -> Tensor:
    """YOLOv5's space to depth."""
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


def unequal_split(x: Tensor) -> Tensor:
    first, second = torch.split(x, [3, 5], dim=1)
    return torch.cat([F.relu(second), first], dim=1)


def shifted(x: Tensor) -> Tensor:
    """TSM's and S2-MLP's shift of parts of the channels, by slices."""
    out = torch.zeros_like(x)
    out[:, :4, 1:] = x[:, :4, :-1]
    out[:, 4:, :-1] = x[:, 4:, 1:]
    return out


def patches(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.unfold(2, 2, 2).unfold(3, 2, 2).contiguous().view(batch, channels, height // 2, width // 2, 4)
    return x.permute(0, 1, 4, 2, 3).reshape(batch, channels * 4, height // 2, width // 2)


def folded(x: Tensor) -> Tensor:
    """Overlapping patches, changed and added up again."""
    return F.fold(torch.tanh(F.unfold(x, 3, padding=1, stride=2)), (8, 8), 3, padding=1, stride=2)


def coordinates(x: Tensor) -> Tensor:
    """CoordConv's two channels of places."""
    batch, _, height, width = x.shape
    rows = (
        torch.linspace(-1, 1, height, device=x.device).view(1, 1, height, 1).expand(batch, 1, height, width)
    )
    columns = (
        torch.linspace(-1, 1, width, device=x.device).view(1, 1, 1, width).expand(batch, 1, height, width)
    )
    return torch.cat([x, rows, columns], dim=1)


def warped(x: Tensor) -> Tensor:
    theta = torch.tensor([[0.9, 0.1, 0.0], [-0.1, 0.9, 0.1]]).repeat(x.size(0), 1, 1)
    grid = F.affine_grid(theta, list(x.size()), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


def masked(x: Tensor) -> Tensor:
    mask = torch.ones(8, 8, dtype=torch.bool).tril()
    return torch.where(mask, x, torch.zeros_like(x)).masked_fill(x > 3, 3.0)


FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "pools": (
        one_by_one(
            nn.MaxPool2d((1, 3), 1, (0, 1)),
            nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        ),
        8,
    ),
    "adaptive pools to 3, 2 and 1": (
        one_by_one(nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d((2, 2)), nn.AdaptiveAvgPool2d(1)),
        8,
    ),
    "adaptive max pools": (one_by_one(nn.AdaptiveMaxPool2d(5), nn.AdaptiveMaxPool2d((5, 1))), 8),
    "unusual pools": (
        side_by_side(
            (nn.LPPool2d(2, 8), generalised_mean, lambda x: x.amax((2, 3), keepdim=True), statistics)
        ),
        40,
    ),
    "spatial pyramid": (spatial_pyramid, 24),
    "pads": (
        one_by_one(
            nn.ReflectionPad2d(2),
            nn.ReplicationPad2d((1, 0, 2, 1)),
            lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"),
            nn.ConstantPad2d((0, 1, 0, 1), 0.5),
            lambda x: F.pad(x, (-2, -1, -1, -2)),
        ),
        8,
    ),
    "channel shuffle": (channel_shuffle, 8),
    "focus": (focus, 32),
    "splits": (one_by_one(unequal_split, lambda x: torch.stack(x.unbind(1)[::2], dim=1)), 4),
    "patches": (one_by_one(folded, patches), 32),
    "pixel shuffles": (one_by_one(nn.PixelUnshuffle(2), F.relu, nn.PixelShuffle(4)), 2),
    "resampling": (
        one_by_one(
            nn.Upsample(scale_factor=2),
            lambda x: F.interpolate(x, size=(12, 12), mode="bilinear"),
            lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
            lambda x: F.interpolate(x, scale_factor=1.5, mode="bicubic", align_corners=False),
        ),
        8,
    ),
    "coordinates": (one_by_one(warped, coordinates), 10),
    "shifts": (lambda x: torch.roll(shifted(x), shifts=(-2, -2), dims=(2, 3)) + x.flip(3), 8),
    "indexing": (lambda x: torch.index_select(x, 1, torch.tensor([7, 0, 3, 1]))[:, [1, 2, 0]], 3),
    "masks": (one_by_one(masked, lambda x: x.repeat(1, 2, 1, 1) + x.repeat_interleave(2, dim=1)), 16),
    "reductions": (
        lambda x: (
            torch.logsumexp(x, 1, keepdim=True)
            + torch.abs(x - x.mean(dim=1, keepdim=True)).sqrt()
            + torch.cumsum(x, dim=3) / 8
        ),
        8,
    ),
}
for name, (function, channels) in FUNCTIONS.items():
    enter_function(name, function, channels)


# Weights that are computed, shared or of unusual form.


class StandardisedConv(nn.Conv2d):
    """Weight standardisation (Big Transfer)."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        w = self.weight
        variance, mean = torch.var_mean(w, dim=[1, 2, 3], keepdim=True, unbiased=False)
        w = (w - mean) / torch.sqrt(variance + 1e-10)
        return F.conv2d(input, w, self.bias, self.stride, self.padding, self.dilation, self.groups)


class EqualisedConv(nn.Conv2d):
    """StyleGAN's equalised learning rate, and a mask over the weight as pruning leaves it."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__(inputs, outputs, size)
        self.register_buffer("mask", torch.rand_like(self.weight) > 0.3)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return F.conv2d(input, self.weight * self.mask * 0.7, self.bias)


class BlurPool(nn.Module):
    """Anti-aliased downsampling (Zhang): a fixed kernel on every channel."""

    def __init__(self, channels: int = WIDTH) -> None:
        super().__init__()
        a = torch.tensor([1.0, 2.0, 1.0])
        kernel = (a[:, None] * a[None, :]) / 16
        self.register_buffer("filt", kernel[None, None, :, :].repeat((channels, 1, 1, 1)))
        self.pad = nn.ReflectionPad2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.pad(x), self.filt, stride=2, groups=x.shape[1])


def old_weight_norm(layer: nn.Module) -> nn.Module:
    """PyTorch's first weight norm, with a hook; it warns that it is old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.utils.weight_norm(layer)


class SharedConv(nn.Module):
    """One convolution three times."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = F.relu(self.conv(x)) + x
        return x


class LowRank(nn.Module):
    """A convolution from two factors, and one whose weight is transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(WIDTH, 2)), nn.Parameter(torch.randn(2, WIDTH))
        self.c = nn.Parameter(torch.randn(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, (self.a @ self.b)[:, :, None, None])
        return F.linear(x.permute(0, 2, 3, 1), self.c.t()).permute(0, 3, 1, 2)


class RepeatedVGG(nn.Module):
    """RepVGG's block as it is trained: three branches."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.point = nn.Sequential(nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8))
        self.identity = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.dense(x) + self.point(x) + self.identity(x))


class Bank(nn.Module):
    """Constants of several types."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.rand(1, 8, 1, 1, dtype=torch.float64))
        self.register_buffer("factor", torch.rand(8, 1, 1).half())
        self.register_buffer("offset", torch.rand(8, 1, 1).bfloat16())
        self.register_buffer("levels", torch.arange(8, dtype=torch.uint8).view(8, 1, 1))
        self.register_buffer("order", torch.tensor([3, 1, 0, 2, 7, 6, 5, 4], dtype=torch.int32))
        self.register_buffer("keep", torch.arange(8).view(8, 1, 1) != 2)
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean.float()) * self.factor.float() + self.offset.to(x.dtype)
        x = x[:, self.order] + self.levels / 255
        return self.conv(x * self.keep)


class DoublePrecision(nn.Module):
    """A part in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return (x.double() / (x.double().norm(dim=1, keepdim=True) + 1e-12)).float()


class Volumes(nn.Module):
    """Conv1d over rows and Conv3d over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Conv1d(8, 8, 3, padding=1)
        self.cube = nn.Conv3d(1, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = self.rows(x.flatten(2)).view(batch, channels, height, width)
        return self.cube(x.unsqueeze(1)).flatten(1, 2)


WEIGHTS: dict[str, Callable[[], nn.Module]] = {
    "weight norms": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)), old_weight_norm(nn.Conv2d(8, 8, 1))
    ),
    "spectral norms": lambda: nn.Sequential(
        parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)),
        nn.utils.spectral_norm(nn.Conv2d(8, 8, 1)),
    ),
    "computed weights": lambda: nn.Sequential(StandardisedConv(8, 8, 3, padding=1), EqualisedConv(8, 8, 3)),
    "blur pool": BlurPool,
    "shared convolution": lambda: nn.Sequential(RepeatedVGG(), SharedConv()),
    "low rank": LowRank,
    "groups": lambda: nn.Sequential(
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4), nn.Conv2d(8, 8, (1, 7), padding=(0, 3), groups=8)
    ),
    "pads of convolutions": lambda: nn.Sequential(
        nn.Conv2d(8, 8, 5, padding="same"), nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    ),
    "transposed convolutions": lambda: nn.Sequential(
        nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=2, bias=False),
        nn.BatchNorm2d(8),
    ),
    "constants of several types": lambda: nn.Sequential(Bank(), DoublePrecision()),
}
for name, make in WEIGHTS.items():
    enter_body(name, make)
enter_body("one and three dimensions", Volumes, 16)


# Blocks and attention over channels and places.


def convolution(inputs: int, outputs: int, size: int = 1, **options: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **options),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class SqueezeExcitation(nn.Module):
    """SE with linear layers and a view."""

    def __init__(self, channels: int = WIDTH) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 2, bias=False),
            nn.ReLU(inplace=True),
            nn.Linear(channels // 2, channels, bias=False),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        y = self.fc(self.avg_pool(x).view(b, c)).view(b, c, 1, 1)
        return x * y.expand_as(x)


class EfficientChannels(nn.Module):
    """ECA."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(x, 1)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * torch.sigmoid(y).expand_as(x)


class BlockAttention(nn.Module):
    """CBAM."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Conv2d(8, 4, 1, bias=False), nn.ReLU(), nn.Conv2d(4, 8, 1, bias=False))
        self.spatial = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        x = torch.sigmoid(y) * x
        mean, largest = torch.mean(x, dim=1, keepdim=True), torch.max(x, dim=1, keepdim=True)[0]
        return torch.sigmoid(self.spatial(torch.cat([mean, largest], dim=1))) * x


class CoordinateAttention(nn.Module):
    """Coordinate attention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
        self.conv_h, self.conv_w = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.size()
        x_h = F.adaptive_avg_pool2d(x, (h, 1))
        x_w = F.adaptive_avg_pool2d(x, (1, w)).permute(0, 1, 3, 2)
        y = F.hardswish(self.bn1(self.conv1(torch.cat([x_h, x_w], dim=2))))
        x_h, x_w = torch.split(y, [h, w], dim=2)
        return x * self.conv_h(x_h).sigmoid() * self.conv_w(x_w.permute(0, 1, 3, 2)).sigmoid()


class Ghost(nn.Module):
    """GhostNet's module."""

    def __init__(self) -> None:
        super().__init__()
        self.primary, self.cheap = convolution(8, 6), convolution(6, 6, 3, groups=6)

    def forward(self, x: Tensor) -> Tensor:
        first = self.primary(x)
        return torch.cat([first, self.cheap(first)], dim=1)[:, :8, :, :]


class Involution(nn.Module):
    """Involution: kernels for each place, and unfolded patches."""

    def __init__(self, size: int = 3, groups: int = 2) -> None:
        super().__init__()
        self.size, self.groups = size, groups
        self.reduce, self.span = convolution(8, 4), nn.Conv2d(4, size * size * groups, 1)
        self.unfold = nn.Unfold(size, 1, (size - 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        weight = self.span(self.reduce(x)).view(b, self.groups, self.size**2, h, w).unsqueeze(2)
        out = self.unfold(x).view(b, self.groups, c // self.groups, self.size**2, h, w)
        return (weight * out).sum(dim=3).view(b, c, h, w)


class ConvNeXt(nn.Module):
    """ConvNeXt's block with layer scale and stochastic depth."""

    def __init__(self, dim: int = WIDTH) -> None:
        super().__init__()
        self.dwconv, self.norm = nn.Conv2d(dim, dim, 7, padding=3, groups=dim), nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1, self.act, self.pwconv2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)
        self.gamma, self.drop_path = nn.Parameter(torch.rand(dim)), StochasticDepth(0.1, "row")

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        x = self.gamma * self.pwconv2(self.act(self.pwconv1(x)))
        return shortcut + self.drop_path(x.permute(0, 3, 1, 2))


class Inception(nn.Module):
    """Branches of very unequal ranges in one concat."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.three, self.pool = convolution(8, 4), convolution(8, 4, 3), convolution(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        pooled = self.pool(F.avg_pool2d(x, 3, stride=1, padding=1))
        return torch.cat([self.one(x) * 0.05, self.three(x) * 5, pooled, x], dim=1)


class AtrousPyramid(nn.Module):
    """ASPP with its branch of the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [convolution(8, 4), *(nn.Conv2d(8, 4, 3, padding=d, dilation=d) for d in (2, 3))]
        )
        self.image, self.project = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), convolution(8, 4)),
            convolution(16, 8),
        )

    def forward(self, x: Tensor) -> Tensor:
        whole = F.interpolate(self.image(x), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return self.project(torch.cat([*(branch(x) for branch in self.branches), whole], dim=1))


class SelectiveKernel(nn.Module):
    """SKNet: a softmax over the branches."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([convolution(8, 8, 3), convolution(8, 8, 5)])
        self.fc, self.fcs = nn.Linear(8, 4), nn.ModuleList([nn.Linear(4, 8) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        feats = torch.stack([conv(x) for conv in self.convs], dim=1)
        z = self.fc(feats.sum(dim=1).mean(-1).mean(-1))
        weights = torch.softmax(torch.stack([fc(z) for fc in self.fcs], dim=1), dim=1)
        return (feats * weights.unsqueeze(-1).unsqueeze(-1)).sum(dim=1)


class NonLocal(nn.Module):
    """A non-local block: attention over the places of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.theta, self.phi, self.g = (nn.Conv2d(8, 16, 1) for _ in range(3))
        self.w = nn.Sequential(nn.Conv2d(16, 8, 1), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        g = self.g(x).view(batch, 16, -1).permute(0, 2, 1)
        theta = self.theta(x).view(batch, 16, -1).permute(0, 2, 1)
        attention = F.softmax(torch.matmul(theta, self.phi(x).view(batch, 16, -1)), dim=-1)
        y = torch.matmul(attention, g).permute(0, 2, 1).contiguous().view(batch, 16, *x.size()[2:])
        return self.w(y) + x


class GlobalContext(nn.Module):
    """GCNet's context with its layer norm."""

    def __init__(self) -> None:
        super().__init__()
        self.mask = nn.Conv2d(8, 1, 1)
        self.transform = nn.Sequential(
            nn.Conv2d(8, 4, 1), nn.LayerNorm([4, 1, 1]), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channel, height, width = x.size()
        input_x = x.view(batch, channel, height * width).unsqueeze(1)
        mask = F.softmax(self.mask(x).view(batch, 1, height * width), dim=2).unsqueeze(-1)
        context = torch.matmul(input_x, mask).view(batch, channel, 1, 1)
        return x + self.transform(context)


class Res2Net(nn.Module):
    """A hierarchy of splits."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([convolution(2, 2, 3) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = torch.split(x, 2, 1)
        outputs, last = [first], torch.zeros_like(first)
        for part, conv in zip(rest, self.convs, strict=True):
            last = conv(part + last)
            outputs.append(last)
        return torch.cat(outputs, 1)


class Dense(nn.Module):
    """DenseNet's layers, each behind its batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(8 + 4 * n) for n in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(8 + 4 * n, 4, 3, padding=1) for n in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        for norm, conv in zip(self.norms, self.convs, strict=True):
            x = torch.cat([x, conv(F.relu(norm(x)))], 1)
        return x


class Highway(nn.Module):
    """A gate between a layer and its input, and a learnt temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.gate = convolution(8, 8, 3), nn.Conv2d(8, 8, 1)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(self.gate(x) / self.temperature)
        return torch.lerp(x, self.layer(x), gate)


class TopDown(nn.Module):
    """FPN's sum of two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.lateral, self.smooth = (
            convolution(8, 8, 3, stride=2),
            nn.Conv2d(8, 8, 1),
            convolution(8, 8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        upper = F.interpolate(self.down(x), scale_factor=2.0, mode="nearest")
        return self.smooth(self.lateral(x) + upper)


class PoolMixer(nn.Module):
    """PoolFormer's token mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.pool = nn.GroupNorm(1, 8), nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        self.scale, self.mlp = (
            nn.Parameter(torch.rand(8)),
            nn.Sequential(nn.Conv2d(8, 16, 1), nn.GELU(), nn.Conv2d(16, 8, 1)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        x = x + self.scale.unsqueeze(-1).unsqueeze(-1) * (self.pool(y) - y)
        return x + self.mlp(x)


BLOCKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "channel attention": (lambda: nn.Sequential(SqueezeExcitation(), EfficientChannels()), 8),
    "block attention": (BlockAttention, 8),
    "coordinate attention": (CoordinateAttention, 8),
    "ghost module": (Ghost, 8),
    "involution": (Involution, 8),
    "convnext block": (ConvNeXt, 8),
    "inception": (Inception, 20),
    "atrous pyramid": (AtrousPyramid, 8),
    "selective kernel": (SelectiveKernel, 8),
    "non-local block": (NonLocal, 8),
    "global context": (GlobalContext, 8),
    "dense block": (lambda: nn.Sequential(Res2Net(), Dense()), 20),
    "sums and gates": (lambda: nn.Sequential(Highway(), TopDown()), 8),
    "pool mixer": (PoolMixer, 8),
}
for name, (make, channels) in BLOCKS.items():
    enter_body(name, make, channels)


# Tokens: attention and its relatives.

TOKENS = 32


class Tokens(nn.Module):
    """Patches as tokens with a batch norm, ``block``, and a head on their mean."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, TOKENS, 4, 4), nn.BatchNorm2d(TOKENS)
        self.places = nn.Parameter(torch.randn(1, 16, TOKENS) * 0.5)
        self.block, self.head = block, nn.Linear(TOKENS, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.patches(x)).flatten(2).transpose(1, 2) + self.places
        return self.head(self.block(x).mean(dim=1))


class Attention(nn.Module):
    """timm's attention, written out."""

    def __init__(self, dim: int = TOKENS, heads: int = 2) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dim // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(dim, dim * 3), nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = ((q * self.scale) @ k.transpose(-2, -1)).softmax(dim=-1)
        return x + self.proj((attn @ v).transpose(1, 2).reshape(b, n, c))


class FusedAttention(Attention):
    """The same with PyTorch's own function."""

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(b, n, c))


class CausalAttention(Attention):
    """The same behind a mask that is a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)).view(1, 1, 16, 16))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).split(c, dim=2)
        q, k, v = (y.view(b, n, self.heads, c // self.heads).transpose(1, 2) for y in (q, k, v))
        attn = (q @ k.transpose(-2, -1)) * self.scale
        attn = attn.masked_fill(self.mask[:, :, :n, :n] == 0, float("-inf"))
        y = F.softmax(attn, dim=-1) @ v
        return self.proj(y.transpose(1, 2).contiguous().view(b, n, c))


class ShiftedWindows(nn.Module):
    """Swin: rolled windows with a bias of relative places."""

    def __init__(self, window: int = 2) -> None:
        super().__init__()
        self.window, self.norm, self.attn = window, nn.LayerNorm(TOKENS), Attention()
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, self.attn.heads))
        places = torch.stack(
            torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        ).flatten(1)
        relative = (places[:, :, None] - places[:, None, :]).permute(1, 2, 0) + window - 1
        self.register_buffer("index", relative[..., 0] * (2 * window - 1) + relative[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        w, side = self.window, 4
        y = torch.roll(self.norm(x).view(b, side, side, c), (-1, -1), (1, 2))
        y = y.view(b, side // w, w, side // w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, w * w, c)
        qkv = self.attn.qkv(y).reshape(-1, w * w, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
        bias = self.table[self.index.view(-1)].view(w * w, w * w, -1).permute(2, 0, 1)
        attn = (qkv[0] * self.attn.scale) @ qkv[1].transpose(-2, -1) + bias.unsqueeze(0)
        y = self.attn.proj((attn.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(-1, w * w, c))
        y = y.view(-1, side // w, side // w, w, w, c).permute(0, 1, 3, 2, 4, 5).reshape(b, side, side, c)
        return x + torch.roll(y, (1, 1), (1, 2)).view(b, n, c)


class LinearAttention(nn.Module):
    """Attention without a softmax over the keys, by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(TOKENS, TOKENS, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.q(x).softmax(dim=-1), self.k(x).softmax(dim=-2)
        context = torch.einsum("bnd,bne->bde", k, self.v(x))
        return torch.einsum("bnd,bde->bne", q, context)


class MultiHead(nn.Module):
    """nn.MultiheadAttention with a class token."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.norm = nn.Parameter(torch.randn(1, 1, TOKENS)), nn.LayerNorm(TOKENS)
        self.attention = nn.MultiheadAttention(TOKENS, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat((self.token.expand(x.size(0), -1, -1), x), dim=1))
        return self.attention(x, x, x, need_weights=False)[0][:, :1]


class Mixer(nn.Module):
    """MLP-Mixer: linear layers over tokens, then over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(TOKENS), nn.LayerNorm(TOKENS)
        self.tokens = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16))
        self.channels = nn.Sequential(nn.Linear(TOKENS, TOKENS), nn.GELU(), nn.Linear(TOKENS, TOKENS))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class SpatialGate(nn.Module):
    """gMLP with a Conv1d over the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.expand = nn.LayerNorm(TOKENS), nn.Linear(TOKENS, 2 * TOKENS)
        self.places, self.project = nn.Conv1d(16, 16, 1), nn.Linear(TOKENS, TOKENS)

    def forward(self, x: Tensor) -> Tensor:
        u, v = F.gelu(self.expand(self.norm(x))).chunk(2, dim=-1)
        return x + self.project(u * self.places(v))


class GatedUnit(nn.Module):
    """SwiGLU without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2, self.w3 = (nn.Linear(TOKENS, TOKENS, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.w3(F.silu(self.w1(x)) * self.w2(x))


class Projection(nn.Module):
    """A matrix of weights on the left, and one through einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(16, 16)), nn.Parameter(torch.randn(2, TOKENS, 16))

    def forward(self, x: Tensor) -> Tensor:
        heads = torch.einsum("bnd,hde->bhne", torch.matmul(self.left, x), self.right)
        return heads.transpose(1, 2).flatten(2)


BLOCKS_OF_TOKENS: dict[str, Callable[[], nn.Module]] = {
    "attention": Attention,
    "causal attention": lambda: nn.Sequential(FusedAttention(), CausalAttention()),
    "shifted windows": ShiftedWindows,
    "linear attention by einsum": LinearAttention,
    "multi-head attention": MultiHead,
    "encoder layer": lambda: nn.TransformerEncoderLayer(TOKENS, 2, 32, batch_first=True, activation="gelu"),
    "mixer": lambda: nn.Sequential(Mixer(), SpatialGate(), GatedUnit()),
    "projection by einsum": Projection,
}
for name, make in BLOCKS_OF_TOKENS.items():
    enter(name, lambda make=make: Tokens(make()))


class MobileBlock(nn.Module):
    """MobileViT: patches of an image as tokens and back."""

    def __init__(self) -> None:
        super().__init__()
        self.local, self.block = (
            convolution(8, TOKENS, 3),
            nn.TransformerEncoderLayer(TOKENS, 2, 32, batch_first=True),
        )
        self.back, self.fuse = convolution(TOKENS, 8), convolution(16, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.local(x)
        b, c, h, w = y.shape
        y = y.reshape(b * c * (h // 2), 2, w // 2, 2).transpose(1, 2)
        y = y.reshape(b, c, (h // 2) * (w // 2), 4).transpose(1, 3).reshape(b * 4, -1, c)
        y = self.block(y).contiguous().view(b, 4, -1, c).transpose(1, 3)
        y = y.reshape(b * c * (h // 2), w // 2, 2, 2).transpose(1, 2).reshape(b, c, h, w)
        return self.fuse(torch.cat([x, self.back(y)], dim=1))


enter_body("mobile attention", MobileBlock)


# Heads.


class Headed(nn.Module):
    """The stem and ``head`` on its 8 channels of 8x8."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.head = Stem(), head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stem(x))


class CosineHead(nn.Module):
    """Normalised features and weights with a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(5, 8)), 16.0

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, 1).view(x.size(0), -1)
        return self.scale * F.linear(F.normalize(x), F.normalize(self.weight))


class EinsumHead(nn.Module):
    """Classes by einsum and a bias by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 8)), nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bc,kc->bk", x.mean((2, 3)), self.weight) + self.bias


class BilinearHead(nn.Module):
    """Bilinear pooling: a product of the features with themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(64, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(x.size(0), 8, -1)
        x = torch.bmm(x, x.transpose(1, 2)) / 64
        x = x.view(x.size(0), -1)
        return self.fc(F.normalize(torch.sign(x) * torch.sqrt(torch.abs(x) + 1e-10)))


class PrototypeHead(nn.Module):
    """Squared distances to prototypes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.prototypes = nn.Linear(8, 8), nn.Parameter(torch.randn(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x.mean((2, 3)))
        return -(x.unsqueeze(1) - self.prototypes.unsqueeze(0)).pow(2).sum(-1)


class ViewHead(nn.Module):
    """The view of old tutorials, with batch norm and dropout between its linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.fc2 = nn.Linear(8 * 4, 16), nn.BatchNorm1d(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 4).view(-1, 8 * 2 * 2)
        x = F.dropout(F.relu(self.norm(self.fc1(x))), p=0.5, training=self.training)
        return F.log_softmax(self.fc2(x), dim=1)


class NumberedHead(nn.Module):
    """num_flat_features of the tutorials, and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(512, 5)

    def forward(self, x: Tensor) -> Tensor:
        features = 1
        for size in x.size()[1:]:
            features *= size
        return F.softmax(self.fc(x.reshape(x.shape[0], features)), dim=-1)


class SqueezedHead(nn.Module):
    """SqueezeNet's: classes by a convolution, and all squeezed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).squeeze()


class TiedHead(nn.Module):
    """An autoencoder's weight in both directions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.fc = nn.Parameter(torch.randn(4, 8)), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        code = torch.tanh(F.linear(x.mean((2, 3)), self.weight))
        return self.fc(F.linear(code, self.weight.t()))


HEADS: dict[str, Callable[[], nn.Module]] = {
    "cosine head": CosineHead,
    "einsum head": EinsumHead,
    "bilinear head": BilinearHead,
    "prototype head": PrototypeHead,
    "view and log softmax": ViewHead,
    "reshape and softmax": NumberedHead,
    "squeezed head": SqueezedHead,
    "tied weights": TiedHead,
}


for name, make in HEADS.items():
    enter(name, lambda make=make: Headed(make()))


# What no ONNX is written for, by the operator that the message names.


class ConditionalConv(nn.Module):
    """CondConv: one kernel for each image, mixed from experts."""

    def __init__(self, experts: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(experts, WIDTH * WIDTH * 9) * 0.1)
        self.route = nn.Linear(WIDTH, experts)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        routing = torch.sigmoid(self.route(x.mean((2, 3))))
        weight = torch.matmul(routing, self.weight).view(batch * channels, channels, 3, 3)
        x = x.reshape(1, batch * channels, height, width)
        return F.conv2d(x, weight, padding=1, groups=batch).view(batch, channels, height, width)


class Deformable(nn.Module):
    """Deformable convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.conv = nn.Conv2d(WIDTH, 18, 3, padding=1), DeformConv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x, self.offset(x))


def unpooled(x: Tensor) -> Tensor:
    values, indices = F.adaptive_max_pool2d(x, 3, return_indices=True)
    return values + indices.float()


REFUSED: dict[str, Callable[[], nn.Module]] = {
    "aten.conv2d.default": ConditionalConv,
    "aten.adaptive_max_pool2d.default": lambda: Call(unpooled),
    "aten.kthvalue.default": lambda: Call(
        lambda x: x.kthvalue(2, dim=1, keepdim=True)[0].expand(-1, WIDTH, -1, -1)
    ),
    "ai.onnx.DeformConv": Deformable,
}
