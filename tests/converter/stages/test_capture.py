"""Networks whose forward keeps something for inputs of the same shape."""

import pytest
import torch
from torch import Tensor, nn

from calibrators.data.input_spec import InputSpec
from converter.errors import CaptureError
from converter.load.model import Teacher
from converter.stages.capture import graph_of
from tests.converter.jobs import job_of

SPEC = InputSpec((3, 8, 8))


class Cached(nn.Module):
    """Keeps the centres of its cells for inputs of the same shape, as YOLOv8 does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3, 2, 1)
        self.shape: object = None
        self.centres = torch.empty(0)
        self.stride = torch.tensor([2.0])

    def forward(self, x: Tensor) -> Tensor:
        maps: Tensor = self.conv(x)
        if self.shape != maps.shape:
            cells = (torch.arange(maps.shape[3]) + 0.5) * float(self.stride[0])
            self.centres, self.shape = cells, maps.shape
        return maps + self.centres


def teacher_of(network: nn.Module) -> Teacher:
    module = network.eval().requires_grad_(False)
    return Teacher(module, SPEC, {"output": module(torch.rand(4, 3, 8, 8))}, None, "mine", "", 0, 0)


def test_a_grid_that_is_kept_for_a_shape_is_a_constant() -> None:
    teacher = teacher_of(Cached())
    x = torch.rand(3, 3, 8, 8)
    graph = graph_of(job_of(teacher=teacher))
    torch.testing.assert_close(graph.module(x), teacher.module(x))


def test_what_is_not_exported_for_one_image_either_keeps_its_error() -> None:
    class Branching(Cached):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if x.mean() > 0 else x[:, :2]

    with pytest.raises(
        CaptureError, match="one fixed flow of control, but its forward branches on the values"
    ):
        graph_of(job_of(teacher=teacher_of(Branching())))
