"""Architectures of torchvision through graph, plan and Q/DQ model, up to a plan of TensorRT for RTX."""

import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.efficientnet import MBConvConfig
from torchvision.models.googlenet import Inception
from torchvision.models.mobilenetv3 import InvertedResidualConfig
from torchvision.models.regnet import BlockParams
from torchvision.models.resnet import BasicBlock

from calibrators.data.input_spec import InputSpec
from converter.graph.capture import FoldedGraph, graph_from_model
from converter.quantize.qdq import qdq_from_onnx
from engines.onnx_passes.float16 import half_from_onnx
from engines.options import BuildOptions
from engines.tensorrt.rtx import engine_from_onnx
from tests.converter.networks import randomised
from tests.converter.reference import (
    FLOAT_TOLERANCE,
    assert_pairs_are_as_planned,
    largest_difference,
    planned,
    run_onnx,
)

# Layers, activation quantizers. More quantizers than layers: residual branches, pools and concats have theirs.
FAMILIES = {
    "resnet18": (13, 15),
    "mobilenet_v2": (14, 15),
    "mobilenet_v3_small": (24, 25),
    "efficientnet_b0": (22, 23),
    "densenet": (21, 22),
    "googlenet": (34, 49),
    "regnet_y_400mf": (19, 20),
    "shufflenet_v2_x0_5": (27, 26),
    "mnasnet0_5": (38, 39),
    "vgg11_bn": (11, 15),
}


def googlenet() -> nn.Module:
    """Without four of the nine inceptions; the last but one takes what those would have made."""
    model = models.GoogLeNet(num_classes=10, aux_logits=False, init_weights=False)
    for name in ("inception4b", "inception4c", "inception4d", "inception5a"):
        setattr(model, name, nn.Identity())
    model.inception4e = Inception(512, 256, 160, 320, 32, 128, 128)
    return model


def mnasnet() -> nn.Module:
    """With at most two blocks in each of the six stacks."""
    model = models.MNASNet(0.5, num_classes=10)
    for number in range(8, 14):
        model.layers[number] = model.layers[number][:2]
    return model


def vgg() -> nn.Module:
    """With the same three linear layers, but not their 120 million weights."""
    model = models.vgg11_bn(init_weights=False)
    model.classifier[0], model.classifier[3] = nn.Linear(512 * 49, 32), nn.Linear(32, 32)
    model.classifier[6] = nn.Linear(32, 10)
    return model


# Every block of the architecture, but fewer repetitions of it: most of the time goes by the number of layers.
SHALLOW: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: models.ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10),
    "mobilenet_v2": lambda: models.MobileNetV2(
        10, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]
    ),
    "mobilenet_v3_small": lambda: models.MobileNetV3(
        [
            InvertedResidualConfig(16, 3, 16, 16, True, "RE", 2, 1, 1.0),
            InvertedResidualConfig(16, 3, 72, 24, False, "RE", 2, 1, 1.0),
            InvertedResidualConfig(24, 3, 88, 24, False, "RE", 1, 1, 1.0),
            InvertedResidualConfig(24, 5, 96, 40, True, "HS", 2, 1, 1.0),
            InvertedResidualConfig(40, 5, 240, 40, True, "HS", 1, 1, 1.0),
        ],
        last_channel=256,
        num_classes=10,
    ),
    "efficientnet_b0": lambda: models.EfficientNet(
        [
            MBConvConfig(1, 3, 1, 32, 16, 1),
            MBConvConfig(6, 3, 2, 16, 24, 2),
            MBConvConfig(6, 5, 2, 24, 40, 1),
        ],
        dropout=0.2,
        num_classes=10,
    ),
    "densenet": lambda: models.DenseNet(32, (2, 2, 2, 2), num_classes=10),
    "googlenet": googlenet,
    "regnet_y_400mf": lambda: models.RegNet(
        BlockParams([1, 2], [48, 104], [8, 8], [1.0, 1.0], [2, 2], se_ratio=0.25), num_classes=10
    ),
    "shufflenet_v2_x0_5": lambda: models.ShuffleNetV2([2, 2, 2], [24, 48, 96, 192, 1024], num_classes=10),
    "mnasnet0_5": mnasnet,
    "vgg11_bn": vgg,
}


def family_model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(SHALLOW[name]())


@cache
def family_graph(name: str) -> tuple[nn.Module, FoldedGraph]:
    """The network and what is captured of it, which no test may change."""
    model = family_model(name)
    return model, graph_from_model(model, InputSpec((3, 64, 64)))


# GPUs of three generations; none is needed to build for them.
CAPABILITIES = ("8.6", "8.9", "12.0")
IN_HALF = ("resnet18", "mobilenet_v3_small")


def assert_tensorrt_builds(name: str, int8: onnx.ModelProto, x: torch.Tensor, folder: Path) -> None:
    """INT8 plans ahead of time, for two families with half precision in the rest as well."""
    if platform.machine() != "x86_64":
        return  # TensorRT for RTX has wheels for x86-64 only
    path = folder / "int8.onnx"
    onnx.save(int8, path)
    weights = sum(tensor.ByteSize() for tensor in int8.graph.initializer)
    plan = engine_from_onnx(path, folder / "int8.plan", BuildOptions(CAPABILITIES))
    assert plan.stat().st_size > 0.9 * weights
    if name in IN_HALF:
        half = engine_from_onnx(path, folder / "half.plan", BuildOptions(CAPABILITIES, fp16=True))
        assert half.stat().st_size > 0.9 * weights
        ours, theirs = (run_onnx(model, x)[0].flatten() for model in (half_from_onnx(int8), int8))
        # 2^-11 in each scale and value moves a few codes of the layers before the logits.
        assert float(np.corrcoef(ours, theirs)[0, 1]) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
@torch.no_grad()
def test_family(name: str, tmp_path: Path) -> None:
    model, graph = family_graph(name)
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    expected = model(x)
    spread = float(expected.std())
    torch.testing.assert_close(graph.module(x), expected, rtol=0, atol=2 * FLOAT_TOLERANCE * spread)
    assert largest_difference(graph, x) < 2 * FLOAT_TOLERANCE * spread

    plan, amax = planned(graph, x)
    layers = {n.output[0] for n in graph.onnx.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")}
    consumers = {consumer for pair in plan.activations for consumer in pair.consumers}
    assert layers == {weight.consumer for weight in plan.weights}
    assert layers <= consumers
    assert (len(layers), len(plan.activations)) == FAMILIES[name]

    int8 = qdq_from_onnx(graph.onnx, plan, amax)
    onnx.checker.check_model(int8, full_check=True)
    assert_pairs_are_as_planned(int8, plan)
    assert_tensorrt_builds(name, int8, x, tmp_path)
    logits = torch.from_numpy(run_onnx(int8, x)[0])
    # Random weights, ranges from the same images: 0.9994 is the least that was seen.
    assert float(torch.cosine_similarity(logits.flatten(), expected.flatten(), dim=0)) > 0.998
