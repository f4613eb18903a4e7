import hashlib

import pytest
import torch

from calibrators.data.input_spec import InputSpec
from calibrators.fingerprint import fingerprint, fingerprint_for_input

STATE = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1, dtype=torch.int64)}


def test_neither_order_nor_layout_matters() -> None:
    layout = STATE["a"].t().contiguous().t()
    assert fingerprint({"b": STATE["b"], "a": layout}) == fingerprint(STATE)


@pytest.mark.parametrize(
    "other",
    [
        {"a": STATE["a"]},
        {"a": STATE["a"], "c": STATE["b"]},
        {"a": STATE["a"].view(3, 2), "b": STATE["b"]},
        {"a": STATE["a"].view(torch.int32), "b": STATE["b"]},
        {"a": STATE["a"] + torch.eye(2, 3) * 1e-6, "b": STATE["b"]},
        {"a": STATE["a"].double(), "b": STATE["b"]},
        {},
    ],
)
def test_any_change_shows(other: dict[str, torch.Tensor]) -> None:
    assert fingerprint(other) != fingerprint(STATE)


def test_every_dtype_and_an_empty_tensor() -> None:
    state = {str(t): torch.zeros(2).to(t) for t in (torch.bfloat16, torch.float16, torch.bool, torch.uint8)}
    assert len(fingerprint(state | {"empty": torch.zeros(0, 3)})) == 64


def test_an_input_of_its_own() -> None:
    spec = InputSpec((1, 8, 8), (0.5,), (0.25,))
    others = [
        InputSpec((1, 8, 9), (0.5,), (0.25,)),
        InputSpec((1, 8, 8), (0.5,), (0.5,)),
        InputSpec((1, 8, 8)),
        InputSpec((3, 8, 8)),
        InputSpec((3, 8, 8), channel_order="bgr"),
    ]
    found = {fingerprint_for_input(weights, each) for weights in ("a", "b") for each in (spec, *others)}
    assert {len(name) for name in found} == {64}
    assert len(found) == 12


def test_files_that_were_made_before_orders_fit() -> None:
    text = "a InputSpec(shape=(1, 8, 8), mean=(0.5,), std=(0.25,))"
    found = fingerprint_for_input("a", InputSpec((1, 8, 8), (0.5,), (0.25,)))
    assert found == hashlib.sha256(text.encode()).hexdigest()
