"""What networks return, and the names of its tensors."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from converter.graph.outputs import TensorsOf, named_tensors, tensors_of

A, B, C = torch.zeros(2, 3), torch.ones(2, 4, 5), torch.full((2,), 7)


class Found(NamedTuple):
    """As torchvision's networks in training mode."""

    logits: Tensor
    aux: Tensor | None = None


@dataclass
class Said:
    """As the ModelOutput of other libraries."""

    scores: Tensor
    hidden: list[Tensor]
    loss: Tensor | None = None


Plain = namedtuple("Plain", "one other")


@pytest.mark.parametrize(
    ("result", "names"),
    [
        (A, ["logits"]),
        (B, ["output"]),
        (C, ["output"]),
        ((A, B), ["output_0", "output_1"]),
        ([A], ["output_0"]),
        ({"out": A, "aux": B}, ["out", "aux"]),
        (OrderedDict(b=A, a=B), ["b", "a"]),
        ({3: A, 4: B}, ["output_3", "output_4"]),
        (Found(A, B), ["logits", "aux"]),
        (Found(A), ["logits"]),
        (Plain(A, B), ["one", "other"]),
        (Said(A, [B, C]), ["scores", "hidden_0", "hidden_1"]),
        ((A, None, B), ["output_0", "output_2"]),
        ([[A, B], (C,)], ["output_0_0", "output_0_1", "output_1_0"]),
        ({"boxes": [A, {"deep": B}], "mask": C}, ["boxes_0", "boxes_1_deep", "mask"]),
        ({"a_0": A, "a": [B]}, ["a_0", "a_0_1"]),
        ({"a": {"b": A}, "a_b_1": B, "a_b": C}, ["a_b", "a_b_1", "a_b_2"]),
        ({"a": {"b": A}, "a_b": B, "a_b_1": C}, ["a_b", "a_b_1", "a_b_1_1"]),
    ],
)
def test_names(result: object, names: list[str]) -> None:
    found = named_tensors(result)
    assert list(found) == names
    assert [id(tensor) for tensor in found.values()] == [id(tensor) for tensor in tensors_of(result)]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "it holds no tensor but is NoneType"),
        ((), "it holds no tensor but is tuple"),
        ({"loss": None}, "it holds no tensor but is dict"),
        (3.5, "it holds a float"),
        ((A, 3), "it holds a int"),
        ({"out": "text"}, "it holds a str"),
        (Said, "it holds a type"),
    ],
)
def test_what_holds_no_tensors(result: object, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        named_tensors(result)


def test_the_module_returns_a_tuple() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> dict[str, object]:
            return {"out": x, "none": None, "more": [x + 1]}

    found = TensorsOf(Both())(A)
    assert isinstance(found, tuple)
    assert [tensor.tolist() for tensor in found] == [A.tolist(), (A + 1).tolist()]
