"""Which answers of a network can be converted."""

import pytest
import torch

from converter.errors import LoadError
from converter.load.answer import outputs_of

FLOAT, CHOICES = torch.rand(4, 3), torch.zeros(4, 8, 8, dtype=torch.int64)


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (FLOAT, ["logits"]),
        (CHOICES, ["output"]),
        ({"out": torch.rand(4, 3, 8, 8), "aux": None}, ["out"]),
        ((FLOAT, CHOICES, torch.zeros(4, dtype=torch.bool)), ["output_0", "output_1", "output_2"]),
        (torch.rand(4), ["output"]),
    ],
)
def test_taken(result: object, names: list[str]) -> None:
    assert list(outputs_of(result, 4, "wrap it")) == names


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "one tensor, or a tuple, list, .* but it holds no tensor but is NoneType; wrap it$"),
        ([FLOAT, "text"], "but it holds a str; wrap it$"),
        (torch.rand(()), "outputs of shape 4x... for 4 images, got output of a number; wrap it$"),
        (torch.rand(1, 3), "outputs of shape 4x... for 4 images, got logits of 1x3; wrap it$"),
        (torch.rand(50, 4, 37), "got output of 50x4x37, with the images on axis 1, .* first; wrap it$"),
        ({"a": FLOAT, "b": torch.rand(12, 2)}, "got b of 12x2"),
        (torch.rand(4, 0), "got logits of 4x0"),
        (
            (FLOAT, torch.zeros(4, 2, dtype=torch.complex64)),
            "real numbers, got output_1 of complex ones; wrap",
        ),
    ],
)
def test_refused(result: object, message: str) -> None:
    with pytest.raises(LoadError, match=message):
        outputs_of(result, 4, "wrap it")
