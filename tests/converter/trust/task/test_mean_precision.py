"""COCO's mAP of boxes worked out by hand, and what is said where it is not to be computed."""

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from converter.errors import ConversionError
from converter.trust.task.mean_precision import mean_average_precision

TRUTHS = [np.array([[0, 0, 100, 100, 1], [200, 0, 300, 100, 2]]), np.zeros((0, 5))]
NOTHING = np.zeros((0, 6), np.float32)


def said(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("answers", "percent"),
    [
        ([NOTHING, NOTHING], 0.0),
        ([said((0, 0, 100, 100, 0.9, 1), (200, 0, 300, 100, 0.8, 2)), NOTHING], 100.0),
        # One of two classes.
        ([said((0, 0, 100, 100, 0.9, 1)), NOTHING], 50.0),
        # An IoU of 0.72 counts at 5 of the 10 thresholds.
        ([said((0, 0, 72, 100, 0.9, 1), (200, 0, 300, 100, 0.8, 2)), NOTHING], 75.0),
        # A stronger box in the picture without any halves the precision of its class.
        ([said((0, 0, 100, 100, 0.5, 1), (200, 0, 300, 100, 0.8, 2)), said((0, 0, 9, 9, 0.9, 1))], 75.0),
    ],
)
def test_percent_by_hand(answers: list[NDArray[np.float32]], percent: float) -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed (the extra map)")
    assert mean_average_precision(answers, TRUTHS) == pytest.approx(percent, abs=0.01)


def test_truths_without_boxes_are_refused() -> None:
    pytest.importorskip("pycocotools", reason="pycocotools is not installed (the extra map)")
    with pytest.raises(ConversionError, match="requires at least one true box"):
        mean_average_precision([NOTHING], [np.zeros((0, 5))])


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(
        ConversionError, match=r'mAP requires pycocotools .*pip install "zscgan-convert\[map\]"'
    ):
        mean_average_precision([NOTHING], TRUTHS)
