"""Each layout is recognised, and its object decoded to where it was put; what only looks like one is refused."""

import math

import pytest
import torch
from torch import Tensor

from converter.trust.task.box_layouts import Layout, layout_from_outputs
from converter.trust.task.box_maps import SplitMaps
from converter.trust.task.box_pairs import Pairs
from converter.trust.task.box_rows import YoloRows
from tests.converter.trust.task import detectors
from tests.converter.trust.task.detectors import CLASSES, DETECTORS, IN_PIXELS, LABEL, box_in

SIZES = ((320, 320), (416, 320), (640, 640))
FACES = ("face_offsets", "face_corners")


def layout_of(outputs: tuple[Tensor, ...], size: tuple[int, int]) -> Layout:
    layout = layout_from_outputs(outputs, size)
    assert layout is not None
    return layout


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", DETECTORS)
def test_the_object_is_where_it_was_put(name: str, size: tuple[int, int]) -> None:
    outputs = DETECTORS[name](size)
    layout = layout_of(outputs, size)
    anchors = layout.anchors(outputs)
    scores = anchors.scores()[0]
    best = int(scores.amax(dim=0).argmax())
    assert anchors.boxes[0, best].tolist() == pytest.approx(box_in(size), abs=0.05)
    label = scores[:, best].argmax() if anchors.labels is None else anchors.labels[0, best]
    assert int(label) == (0 if name in FACES else LABEL)
    assert len(scores) == (1 if anchors.labels is not None or name in FACES else CLASSES)
    assert int((scores.amax(dim=0) > -1).sum()) == 1
    assert layout.in_pixels is (name in IN_PIXELS)


@pytest.mark.parametrize("name", DETECTORS)
def test_a_batch_is_decoded_as_its_images_are(name: str) -> None:
    one, other = DETECTORS[name]((320, 320)), DETECTORS[name]((320, 320))
    other = tuple(values.flip(1) if values.dim() == 3 else values + 0.1 for values in other)
    layout = layout_of(one, (320, 320))
    both = layout.anchors(tuple(torch.cat(pair) for pair in zip(one, other, strict=True)))
    for image, outputs in enumerate((one, other)):
        alone = layout.anchors(outputs)
        assert torch.allclose(both.boxes[image], alone.boxes[0], atol=1e-3)
        assert torch.allclose(both.scores()[image], alone.scores()[0], atol=1e-4)


@pytest.mark.parametrize("name", DETECTORS)
def test_heads_are_differentiable_in_every_output_they_read(name: str) -> None:
    outputs = tuple(values.clone().requires_grad_() for values in DETECTORS[name]((320, 320)))
    layout = layout_of(outputs, (320, 320))
    heads = layout.anchors(outputs).heads()
    torch.stack([(head.values + 1).square().mean() for head in heads]).sum().backward()
    read = outputs[:1] if name == "yolov5_with_maps" else outputs
    for values in read:
        assert values.grad is not None
        assert torch.isfinite(values.grad).all()
        assert values.grad.abs().sum() > 0


def test_saturated_scores_keep_finite_logits_and_gradients() -> None:
    rows = detectors.yolov5((320, 320))[0].clone()
    rows[0, :100, 4:], rows[0, 100:200, 4:] = 1.0, 0.0
    layout = layout_of((rows,), (320, 320))
    scores = layout.anchors((rows.requires_grad_(),)).scores()
    scores.sum().backward()
    assert torch.isfinite(scores).all()
    assert rows.grad is not None
    assert torch.isfinite(rows.grad).all()


def test_scores_are_the_product_of_objectness_and_class() -> None:
    outputs = detectors.yolov5((320, 320))
    rows = outputs[0][0]
    scores = layout_of(outputs, (320, 320)).anchors(outputs).scores()[0].sigmoid()
    assert torch.allclose(scores, (rows[:, 4:5] * rows[:, 5:]).T, atol=1e-6)


def test_the_background_is_left_out_of_the_scores() -> None:
    outputs = detectors.detr((320, 320))
    scores = layout_of(outputs, (320, 320)).anchors(outputs).scores()[0].sigmoid()
    assert torch.allclose(scores, outputs[0][0].softmax(dim=1)[:, :-1].T, atol=1e-6)


def test_masks_and_keypoints_are_heads_of_their_own() -> None:
    counts = {
        made.__name__: len(layout_of(made((320, 320)), (320, 320)).anchors(made((320, 320))).heads())
        for made in (detectors.yolov8, detectors.yolov8_keypoints, detectors.yolov8_masks)
    }
    assert counts == {"yolov8": 2, "yolov8_keypoints": 3, "yolov8_masks": 4}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("yolov5", "YOLOv5's rows, 6300 anchors"),
        ("yolov8", "YOLOv8's rows, 2100 anchors"),
        ("yolox_in_cells", "YOLOX's rows, 2100 anchors"),
        ("yolov10", "corners, score and class of each box"),
        ("joint_maps", "YOLO's maps at 3 strides, decoded with nominal anchors"),
        ("fcos", "maps of classes and boxes at 3 strides, decoded with nominal anchors"),
        ("nanodet", "maps of classes and boxes at 3 strides"),
        ("face_offsets", "scores of 1 class and boxes by offsets"),
        ("yolo_nas", "scores of 7 classes and boxes by corners"),
    ],
)
def test_the_layout_is_said(name: str, said: str) -> None:
    assert layout_of(DETECTORS[name]((320, 320)), (320, 320)).describe() == said


def test_a_single_class_is_no_objectness() -> None:
    one = detectors.yolov8((320, 320))[0][:, :5].clone()
    one[:, 4] = detectors.yolov8((320, 320))[0][:, 4 + LABEL]
    layout = layout_of((one,), (320, 320))
    assert isinstance(layout, YoloRows)
    assert (layout.classes, layout.objectness) == (1, False)


@pytest.mark.parametrize(
    ("size", "anchors"), [((300, 300), 8732), ((512, 512), 24564), ((320, 320), 3234)], ids=str
)
def test_offsets_of_ssd_are_decoded_by_its_number_of_anchors(size: tuple[int, int], anchors: int) -> None:
    scores = torch.randn(1, anchors, 21)
    scores[..., 0] += 9
    layout = layout_of((scores, torch.randn(1, anchors, 4)), size)
    assert isinstance(layout, Pairs)
    assert (layout.coordinates, layout.in_pixels, layout.classes) == ("offsets", False, 20)


def test_retinanet_has_nine_anchors_a_cell() -> None:
    sides = [256 // stride for stride in (8, 16, 32, 64, 128)]
    maps = [(torch.randn(1, 9 * 5, n, n) - 6, torch.randn(1, 36, n, n)) for n in sides]
    outputs = tuple(classes for classes, _ in maps) + tuple(boxes for _, boxes in maps)
    layout = layout_of(outputs, (256, 256))
    assert isinstance(layout, SplitMaps)
    assert (layout.classes, layout.form, len(layout.grid)) == (5, "offsets", 9 * sum(n * n for n in sides))
    # What is found at the third anchor of a cell is so in the scores.
    outputs[0][0, 2 * 5 + 3, 4, 6] = 9.0
    scores = layout.anchors(outputs).scores()[0]
    assert divmod(int(scores.argmax()), scores.shape[1]) == (3, 2 * 32 * 32 + 4 * 32 + 6)


def near_misses() -> dict[str, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    sides = (40, 20, 10)
    cells, ssd = sum(n * n for n in sides), 3234
    offsets = torch.randn(1, ssd, 4)
    return {
        "classifier": (torch.randn(1, 1000),),
        "mask": (torch.randn(1, 21, 256, 256),),
        "mask of the input's size": (torch.randn(1, 21, 320, 320),),
        "features": tuple(torch.randn(1, 256, n, n) for n in sides),
        "features of 3 x 32": tuple(torch.randn(1, 96, n, n) for n in sides),
        "features after ReLU": tuple(torch.randn(1, 96, n, n).relu() for n in sides),
        "pairs of features": tuple(torch.randn(1, c, n, n) for n in sides for c in (4, 80)),
        "tokens": (torch.randn(1, 197, 768),),
        "as many tokens as anchors": (torch.randn(1, cells, 84),),
        "probabilities of as many tokens": (torch.rand(1, cells, 84),),
        "another number of anchors": (detectors.yolov8((416, 416))[0],),
        "boxes without scores": (offsets,),
        "offsets of unknown anchors": (detectors.face_scores(777, 3), offsets[:, :777]),
        "scores that prefer nothing": (torch.randn(1, ssd, 21), offsets),
        "six columns in no order": (torch.rand(1, 300, 6),),
        "lists of boxes": (torch.rand(17, 4), torch.rand(17), torch.arange(17)),
        "NaN": (torch.full((1, 84, cells), math.nan),),
        "one map": detectors.joint_maps((320, 320))[:1],
        "strides that are no powers of two": tuple(
            torch.nn.functional.pad(v, (1, 1, 1, 1)) for v in detectors.joint_maps((320, 320))
        ),
    }


@pytest.mark.parametrize("name", near_misses())
def test_near_misses_are_refused(name: str) -> None:
    assert layout_from_outputs(near_misses()[name], (320, 320)) is None
