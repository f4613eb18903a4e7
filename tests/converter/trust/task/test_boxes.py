"""What FP32 and INT8 find alike, counted by hand; answers and heads of the layouts."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from converter.trust.task.base import Task, agreement_of
from converter.trust.task.box_layouts import layout_from_outputs
from converter.trust.task.boxes import LEAST_SCORE, MOST_BOXES, Boxes, matches
from converter.trust.task.heads import divergence, projection
from tests.converter.trust.task import detectors
from tests.converter.trust.task.detectors import DETECTORS, LABEL, box_in

SIZE = (320, 320)


def task_of(name: str) -> Boxes:
    layout = layout_from_outputs(DETECTORS[name](SIZE), SIZE)
    assert layout is not None
    return Boxes(layout)


def found(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    return np.array(rows, dtype=np.float32).reshape(-1, 6)


def at(x: float, score: float = 0.9, label: int = 0) -> tuple[float, ...]:
    """A box of 10 x 10."""
    return x, 0.0, x + 10, 10.0, score, label


def test_boxes_is_a_task() -> None:
    task = task_of("yolov8")
    assert isinstance(task, Task)
    assert (task.name, task.classes, task.metric) == ("boxes", 1, "mAP")
    assert task.training_logits(()) is None
    assert task.decision_logits(()) is None
    assert task.describe() == "boxes: YOLOv8's rows, 2100 anchors"


@pytest.mark.parametrize(
    ("fp32", "int8", "agreed"),
    [
        (found(), found(), (0, 0)),
        (found(at(0)), found(), (0, 1)),
        (found(), found(at(0), at(50)), (0, 2)),
        (found(at(0)), found(at(0)), (2, 2)),
        # Overlaps of 7 x 10 and 6 x 10 of two boxes: IoUs of 70/130 and 60/140.
        (found(at(0)), found(at(3)), (2, 2)),
        (found(at(0)), found(at(4)), (0, 2)),
        (found(at(0, label=0)), found(at(0, label=1)), (0, 2)),
        # Each is taken once.
        (found(at(0), at(1)), found(at(0)), (2, 3)),
        (found(at(0)), found(at(0), at(1)), (2, 3)),
        # The strongest chooses first and takes the nearest; the other has what is left.
        (found(at(2, 0.5), at(1, 0.9)), found(at(1, 0.3), at(3, 0.8)), (4, 4)),
        # What is below the threshold is found by neither.
        (found(at(0), at(50, 0.24)), found(at(0), at(50, 0.26)), (2, 3)),
    ],
)
def test_agreement_counts_boxes_that_both_find(
    fp32: NDArray[np.float32], int8: NDArray[np.float32], agreed: tuple[int, int]
) -> None:
    task = task_of("yolov8")
    assert task.agreement(fp32, int8) == agreed
    assert task.agreement(int8, fp32) == agreed


def test_the_strongest_chooses_first() -> None:
    # The weaker box of FP32, of IoU 1 with INT8's only one, comes too late.
    assert matches(found(at(0, 0.4), at(2, 0.9)), found(at(0))) == 1


def test_percent_counts_all_images_together() -> None:
    task = task_of("yolov8")
    total = agreement_of(task, [found(at(0), at(50)), found()], [found(at(0)), found()])
    assert total.percent == pytest.approx(100 * 2 / 3)
    assert agreement_of(task, [found()], [found()]).percent == 100.0


def test_another_threshold_asks_for_more() -> None:
    strict = Boxes(task_of("yolov8").layout, threshold=0.95)
    assert strict.agreement(found(at(0)), found(at(0))) == (0, 0)


@pytest.mark.parametrize("name", DETECTORS)
def test_answers_hold_the_object_first(name: str) -> None:
    outputs = tuple(values.numpy() for values in DETECTORS[name](SIZE))
    task = task_of(name)
    answer = task.answers(outputs)[0]
    assert answer[0, :4].tolist() == pytest.approx(box_in(SIZE), abs=0.05)
    assert answer[0, 4] > 0.5
    assert answer[0, 5] == (0 if name.startswith("face") else LABEL)
    assert (answer[:, 4] >= task.threshold).sum() == 1
    assert len(answer) <= MOST_BOXES
    assert (answer[:, 4] >= LEAST_SCORE).all()
    assert (np.diff(answer[:, 4]) <= 0).all()


def test_answers_keep_one_of_boxes_that_overlap_and_both_classes() -> None:
    rows = detectors.yolov8_transposed(SIZE)[0].numpy().copy()
    rows[0, :3, :4] = [[50, 50, 20, 20], [51, 50, 20, 20], [50, 50, 20, 20]]
    rows[0, :3, 4:] = 0.0
    rows[0, [0, 1, 2], [4, 4, 5]] = [0.8, 0.7, 0.6]
    answer = task_of("yolov8_transposed").answers((rows,))[0]
    strong = answer[(answer[:, 4] > 0.5) & (answer[:, 5] < 2)]
    assert strong[:, 4:].tolist() == [pytest.approx([0.8, 0]), pytest.approx([0.6, 1])]
    assert strong[0, :4].tolist() == pytest.approx([40, 40, 60, 60])


def test_answers_leave_out_what_is_no_number() -> None:
    rows = detectors.yolov8(SIZE)[0].numpy().copy()
    rows[0, :4, :] = np.nan
    assert task_of("yolov8").answers((rows,))[0].shape == (0, 6)


def test_answers_of_half_precision_are_those_of_single() -> None:
    outputs = detectors.yolov8(SIZE)[0].numpy()
    task = task_of("yolov8")
    half, single = (task.answers((outputs.astype(kind),))[0] for kind in (np.float16, np.float32))
    assert task.agreement(half, single) == (2, 2)


def test_an_object_that_fades_is_no_longer_found() -> None:
    task = task_of("yolov5")
    fp32 = detectors.yolov5(SIZE)[0].numpy()
    faded = fp32.copy()
    faded[..., 4] *= 0.2
    a, b = task.answers((fp32,))[0], task.answers((faded,))[0]
    assert task.agreement(a, a) == (2, 2)
    assert task.agreement(a, b) == (0, 1)


@pytest.mark.parametrize("name", ["joint_maps", "fastest"])
def test_nominal_boxes_have_no_accuracy(name: str) -> None:
    task = task_of(name)
    assert task.metric is None
    with pytest.raises(ValueError, match="nominal boxes have no accuracy"):
        task.accuracy([found()], [np.zeros((1, 5))])


@pytest.mark.parametrize("name", DETECTORS)
def test_divergence_is_zero_of_itself_and_grows_with_the_error(name: str) -> None:
    outputs = DETECTORS[name](SIZE)
    task = task_of(name)
    noise = [torch.randn(v.shape, generator=torch.Generator().manual_seed(1)) for v in outputs]
    nats = []
    for error in (0.0, 1e-4, 1e-3, 1e-2):
        others = tuple(v * (1 + error * n) for v, n in zip(outputs, noise, strict=True))
        nats.append(float(divergence(task.heads(outputs), task.heads(others))))
    assert nats[0] == pytest.approx(0.0, abs=1e-7)
    assert nats[0] < nats[1] < nats[2] < nats[3] < 100


def test_boxes_count_where_something_is_found() -> None:
    outputs = detectors.yolov8_transposed(SIZE)
    best = int(outputs[0][0, :, 4:].amax(dim=1).argmax())
    task, nats = task_of("yolov8_transposed"), []
    for row in (best, best + 1):
        moved = outputs[0].clone()
        moved[0, row, 0] += 4.0
        nats.append(float(divergence(task.heads(outputs), task.heads((moved,)))))
    assert nats[0] > 100 * nats[1] >= 0


@pytest.mark.parametrize("name", DETECTORS)
def test_projection_of_the_heads_is_finite(name: str) -> None:
    outputs = tuple(values.clone().requires_grad_() for values in DETECTORS[name](SIZE))
    projection(task_of(name).heads(outputs), torch.Generator().manual_seed(0)).backward()
    grads = [values.grad for values in outputs if values.grad is not None]
    assert grads
    assert all(bool(torch.isfinite(grad).all()) for grad in grads)
