"""Options that make no sense are refused by the name of their flag."""

from dataclasses import replace
from typing import Any

import pytest

from converter.qat.options import MOST_STEPS, QATOptions


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"steps": 0}, "--qat-steps between 1 and"),
        ({"steps": MOST_STEPS + 1}, "--qat-steps between 1 and"),
        (
            {"backend": "distiller"},
            "--qat-backend to be one of modelopt, pytorch-quantization, got distiller",
        ),
        ({"learning_rate": 0.0}, "--qat-lr above 0"),
        ({"learning_rate": float("nan")}, "--qat-lr above 0"),
        ({"num_bits": 1}, "2 to 8 bits"),
    ],
)
def test_refusals(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        QATOptions(**given)


def test_the_rates_are_those_of_eight_bits_and_larger_for_fewer() -> None:
    options = QATOptions(learning_rate=1e-4, range_rate=1e-3)
    assert options.rates == (1e-4, 1e-3)
    assert replace(options, num_bits=4).rates == (4e-4, 4e-3)
