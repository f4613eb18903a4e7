"""Operators that torch.onnx lacks, against PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from converter.graph.decompositions import with_known_operators
from tests.converter.graph.constructs import Call

pytestmark = pytest.mark.slow


def rewritten(function: object, x: Tensor) -> torch.export.ExportedProgram:
    module = function if isinstance(function, nn.Module) else Call(function)  # type: ignore[arg-type]
    return with_known_operators(torch.export.export(module.eval(), (x,)))


@pytest.mark.parametrize(
    "function",
    [
        nn.AdaptiveMaxPool2d((3, 2)),  # windows of several sizes
        nn.AdaptiveMaxPool2d((9, 1)),  # of one size
        nn.AdaptiveMaxPool1d(4),
        nn.RReLU(0.1, 0.5),
        nn.RReLU(),
        lambda x: F.fold(F.unfold(x, 3, padding=1, stride=2), (9, 7), 3, padding=1, stride=2),
        lambda x: F.fold(
            F.unfold(x, (3, 2), dilation=(2, 1), stride=(2, 3)),
            (9, 7),
            (3, 2),
            dilation=(2, 1),
            stride=(2, 3),
        ),
    ],
)
@torch.no_grad()
def test_same_numbers_without_the_operator(function: object) -> None:
    x = torch.randn(2, 4, 9, 7, generator=torch.Generator().manual_seed(0))
    x = x.flatten(2) if isinstance(function, nn.AdaptiveMaxPool1d) else x
    program = rewritten(function, x)
    targets = {str(node.target) for node in program.graph.nodes}
    assert not [t for t in targets if "adaptive_max" in t or "rrelu" in t or "col2im" in t]
    expected = function(x) if not isinstance(function, nn.Module) else function.eval()(x)  # type: ignore[operator]
    torch.testing.assert_close(program.module()(x), expected)


def test_a_pool_whose_indices_are_read_stays() -> None:
    def places(x: Tensor) -> Tensor:
        values, indices = F.adaptive_max_pool2d(x, 2, return_indices=True)
        return values + indices

    program = rewritten(places, torch.randn(2, 4, 9, 7))
    assert any("adaptive_max_pool2d" in str(node.target) for node in program.graph.nodes)
