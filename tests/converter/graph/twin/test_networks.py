"""Whole networks, written by both exporters, against ONNX Runtime at several batch sizes."""

import io
import warnings
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.efficientnet import EfficientNet, FusedMBConvConfig, MBConvConfig
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from converter.graph.capture import silent_exporters
from converter.graph.twin import twin_from_onnx
from tests.converter import networks


class Segmenter(nn.Module):
    """Atrous convolutions, an adaptive pool, concatenation, and Resize to sizes taken from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.PReLU(8))
        self.wide = nn.Conv2d(8, 8, 3, padding=2, dilation=2, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(8, 8, 3, 2, 1, output_padding=1, groups=2)
        self.head = nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.stem(x)
        size = y.shape[-2:]
        pooled = F.interpolate(F.adaptive_avg_pool2d(y, 1), size=size, mode="bilinear", align_corners=False)
        wide = F.hardswish(self.wide(y)) * F.hardsigmoid(y)
        narrow = F.avg_pool2d(F.elu(self.up(y)), 2, ceil_mode=True)
        y = self.head(torch.cat([pooled, wide, narrow], 1))
        masks = F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=True)
        return masks.argmax(1), masks.softmax(1)


class Detector(nn.Module):
    """Slices as YOLO's Focus has them, a split, nearest upsampling, anchors, a view of any batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(12, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 8, 3, 2, 1)
        self.head = nn.Conv2d(16, 2 * 7, 1)
        self.register_buffer("anchors", torch.tensor([[1.0, 2.0], [3.0, 1.5]]).view(1, 2, 2, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)
        left, right = F.silu(self.conv(x)).split((8, 8), 1)
        right = F.interpolate(self.down(torch.cat([left, right], 1)), scale_factor=2.0, mode="nearest")
        y = self.head(torch.cat([left, right], 1))
        batch, _, height, width = y.shape
        y = y.view(batch, 2, 7, height, width)
        size = (y[:, :, 2:4].sigmoid() * 2) ** 2 * self.anchors
        return (
            torch.cat([y[:, :, :2].sigmoid(), size, y[:, :, 4:]], 2)
            .permute(0, 1, 3, 4, 2)
            .reshape(batch, -1, 7)
        )


# Smallest forms of the families; sizes are those of the input.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (networks.Residual, 16),
    "segmenter": (Segmenter, 18),
    "detector": (Detector, 16),
    "vit": (lambda: VisionTransformer(16, 8, 1, 2, 16, 32, num_classes=5), 16),
    "swin": (lambda: SwinTransformer([4, 4], 8, [2], [2], [2, 2], num_classes=5), 16),
    "convnext": (lambda: ConvNeXt([CNBlockConfig(8, None, 2)], num_classes=5), 16),
    "efficientnet": (
        lambda: EfficientNet(
            [FusedMBConvConfig(2, 3, 2, 8, 8, 1), MBConvConfig(2, 3, 2, 8, 8, 1)], 0.2, num_classes=5
        ),
        16,
    ),
    "densenet": (lambda: DenseNet(4, (2, 1), 8, num_classes=5), 32),
    "shufflenet": (lambda: ShuffleNetV2([1, 1, 1], [8, 16, 16, 16, 32], num_classes=5), 32),
}
EXPORTS = [
    ("resnet", "dynamo", 20),
    ("segmenter", "dynamo", 18),
    ("segmenter", "torchscript", 11),
    ("detector", "dynamo", 20),
    ("detector", "torchscript", 13),
    ("vit", "dynamo", 23),
    ("vit", "torchscript", 17),
    ("swin", "dynamo", 18),
    ("convnext", "torchscript", 17),
    ("efficientnet", "dynamo", 23),
    ("densenet", "torchscript", 9),
    ("shufflenet", "torchscript", 11),
]
# Of the largest value: float32 sums in another order.
TOLERANCE = 1e-5


def network_of(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    model = networks.randomised(make())
    for parameter in model.parameters():
        if not parameter.any():  # or the logits are all 0
            nn.init.normal_(parameter, 0, 0.1)
    return model, torch.randn(5, 3, size, size)


def exported(model: nn.Module, x: Tensor, exporter: str, opset: int) -> onnx.ModelProto:
    """``model`` as ONNX with its batch norms, of any batch size."""
    with silent_exporters(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            dims = ({0: torch.export.Dim("batch", max=64)},)
            program = torch.onnx.export(
                model, (x[:2],), dynamo=True, opset_version=opset, dynamic_shapes=dims, verbose=False
            )
            assert program is not None
            return program.model_proto
        file = io.BytesIO()
        axes = {"x": {0: "batch"}}
        torch.onnx.export(
            model, (x[:2],), file, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes=axes
        )
    return onnx.load_from_string(file.getvalue())


@pytest.mark.parametrize(("name", "exporter", "opset"), EXPORTS)
def test_a_network_gives_what_onnx_runtime_gives(name: str, exporter: str, opset: int) -> None:
    model, x = network_of(name)
    proto = exported(model, x, exporter, opset)
    assert next(item.version for item in proto.opset_import if not item.domain) == opset
    module = twin_from_onnx(proto)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    for batch in (1, 2, 5):
        theirs = session.run(None, {session.get_inputs()[0].name: x[:batch].numpy()})
        results = module(x[:batch])
        results = results if isinstance(results, tuple) else (results,)
        for ours, their in zip(results, theirs, strict=True):
            assert ours.shape == their.shape
            error = np.abs(ours.detach().numpy() - their).max()
            assert error <= TOLERANCE * max(1.0, np.abs(their).max())
