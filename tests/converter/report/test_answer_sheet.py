"""The picture of FP32's and INT8's answers: which inputs are in it, and what is drawn where."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from calibrators.data.images import images_from_path
from calibrators.data.input_spec import InputSpec
from converter.report.answer_sheet import (
    HEAD,
    SHOWN,
    SIDE,
    colour_of,
    is_drawable,
    save_answers,
    worth_showing,
)
from converter.stages import verify
from converter.stages.judged import Judged
from converter.stages.verify import draw_answers
from converter.trust.task.base import Outputs
from converter.trust.task.box_decoder import DecodedBoxes
from converter.trust.task.boxes import Boxes
from converter.trust.task.classes import Classes
from converter.trust.task.mask import Mask
from converter.workspace import Workspace
from tests.converter.jobs import job_of

SPEC = InputSpec((3, 32, 64))
SCALE = SIDE // 64
GAP = 4
BOXES = DecodedBoxes(lambda _: [], "mine.py:decode", ("output",))
GREY = (128, 128, 128)


def boxes(*rows: tuple[float, ...]) -> NDArray[np.float32]:
    return np.float32(rows).reshape(-1, 6)


def tiles(path: Path, count: int) -> NDArray[np.uint8]:
    """[rows, columns, height, width, 3] of the picture, without heads and gaps."""
    height, width = 32 * SCALE, 64 * SCALE
    with Image.open(path) as image:
        pixels = np.asarray(image)
    assert pixels.shape == (2 * (HEAD + height + GAP) + GAP, count * (width + GAP) + GAP, 3)
    rows = [GAP + row * (HEAD + height + GAP) + HEAD for row in range(2)]
    columns = [GAP + column * (width + GAP) for column in range(count)]
    return np.stack([[pixels[y : y + height, x : x + width] for x in columns] for y in rows])


def grey(count: int) -> torch.Tensor:
    return torch.full((count, 3, 32, 64), 128 / 255)


def test_boxes_are_drawn_where_they_are_in_the_colour_of_their_class(tmp_path: Path) -> None:
    fp32 = [boxes((4, 10, 20, 30, 0.9, 0), (40, 12, 60, 28, 0.26, 3), (30, 2, 62, 6, 0.24, 5))]
    int8 = [boxes((40, 12, 60, 28, 0.8, 3))]
    path = save_answers(grey(1), SPEC, BOXES, fp32, int8, tmp_path / "answers.png")
    above, below = tiles(path, 1)[:, 0]
    # The middle of a left edge, away from the class and the score.
    first, second, weak = (20 * SCALE, 4 * SCALE), (20 * SCALE, 40 * SCALE), (4 * SCALE, 30 * SCALE)
    assert tuple(above[first]) == colour_of(0)
    assert tuple(above[second]) == tuple(below[second]) == colour_of(3)
    assert tuple(below[first]) == tuple(above[weak]) == GREY
    assert tuple(above[20 * SCALE, 30 * SCALE]) == GREY


@pytest.mark.parametrize(
    "box", [(-50, -9, 900, 1e9), (60, 30, 4, 2), (64, 32, 64, 32), (-9, -9, -3, -3), (70, 40, 90, 60)]
)
def test_boxes_over_the_edge_or_turned_around_are_drawn_inside(
    box: tuple[float, ...], tmp_path: Path
) -> None:
    path = save_answers(grey(1), SPEC, BOXES, [boxes((*box, 1.0, 7))], [boxes()], tmp_path / "answers.png")
    above, below = tiles(path, 1)[:, 0]
    assert (above == colour_of(7)).all(axis=2).any()
    assert (below == GREY).all()


def test_masks_lie_half_over_the_picture(tmp_path: Path) -> None:
    fp32 = np.zeros((8, 16), dtype=np.uint8)
    fp32[4:, 8:] = 20
    path = save_answers(
        grey(1), SPEC, Mask(21), [fp32], [np.zeros((8, 16), dtype=np.uint8)], tmp_path / "answers.png"
    )
    above, below = tiles(path, 1)[:, 0].astype(int)
    assert np.abs(below - 64).max() <= 1
    assert np.abs(above[: 16 * SCALE] - 64).max() <= 1
    expected = (128 + np.array(colour_of(20))) / 2
    assert np.abs(above[16 * SCALE :, 32 * SCALE :] - expected).max() <= 1


def test_classes_have_colours_of_their_own() -> None:
    assert len({colour_of(label) for label in range(100)}) == 100


def test_inputs_with_findings_are_preferred() -> None:
    nothing, weak, strong = boxes(), boxes((0, 0, 9, 9, 0.2, 0)), boxes((0, 0, 9, 9, 0.3, 0))
    answers = [nothing, weak, *[strong, nothing] * 8]
    assert worth_showing(BOXES, answers) == [2, 4, 6, 8, 10, 12]
    assert worth_showing(BOXES, [nothing, weak, strong, *[nothing] * 9]) == [0, 1, 2, 3, 4, 5]
    assert worth_showing(BOXES, [*[nothing] * 9, strong]) == [0, 1, 2, 3, 4, 9]
    masks = [np.full((2, 2), label, dtype=np.uint8) for label in (0, 0, 1, 0, 2)]
    assert worth_showing(Mask(3), masks[:SHOWN]) == [0, 1, 2, 3, 4]


@dataclass(frozen=True)
class Nominal:
    """A layout of which the places of the boxes aren't known."""

    in_pixels: bool = False

    def describe(self) -> str:
        return "maps"

    def anchors(self, outputs: Any) -> Any:
        raise AssertionError(outputs)


def test_what_can_be_drawn() -> None:
    assert all(map(is_drawable, (BOXES, Boxes(Nominal()), Mask(1))))
    assert not is_drawable(Classes(10))


def test_boxes_that_are_not_where_the_network_sees_them_are_called_nominal(tmp_path: Path) -> None:
    def head(task: Any) -> bytes:
        path = save_answers(grey(1), SPEC, task, [boxes()], [boxes()], tmp_path / "answers.png")
        with Image.open(path) as image:
            return image.crop((0, 0, image.width, HEAD)).tobytes()

    assert head(Boxes(Nominal())) != head(Boxes(Nominal(in_pixels=True))) == head(BOXES)


# The stage


@dataclass
class Counting:
    """A segmenter that sees class 1 in every pixel of bright inputs; the sizes of its batches."""

    factor: float = 1.0
    batches: list[int] = field(default_factory=list)

    def __call__(self, x: NDArray[np.float32]) -> Outputs:
        self.batches.append(len(x))
        bright = x[:, :1] * self.factor
        return (np.concatenate([np.full_like(bright, 0.5), bright], axis=1),)


def test_images_are_chosen_by_fp32_and_int8_runs_on_those_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.zeros((40, 32, 64, 3), dtype=np.uint8)
    pixels[[3, 9, 12, 13, 20, 31, 35]] = 204
    np.savez(tmp_path / "val.npz", images=pixels)
    fp32, int8, saved = Counting(), Counting(factor=0.1), list[Any]()
    monkeypatch.setattr(verify, "save_answers", lambda *given: saved.append(given) or save_answers(*given))
    with Workspace(tmp_path / "out") as workspace:
        teacher = replace(job_of().teacher, spec=SPEC)
        val = images_from_path(tmp_path / "val.npz", SPEC, batch_size=8)
        job = job_of(task=Mask(2), teacher=teacher, workspace=workspace, val=val)
        judged = Judged(fp32, int8, job.task, ("masks",))
        draw_answers(job, judged, None)
        draw_answers(replace(job, val=None), judged, None)
        draw_answers(job, replace(judged, task=Classes(2)), None)
    assert (fp32.batches, int8.batches) == ([4] * 8, [6])
    ((inputs, _, _, before, after, _),) = saved
    expected = torch.from_numpy(pixels[[3, 9, 12, 13, 20, 31]]).permute(0, 3, 1, 2) / 255
    assert torch.equal(inputs, expected)
    assert all((mask == 1).all() for mask in before)
    assert all((mask == 0).all() for mask in after)
    above, below = tiles(tmp_path / "out" / "answers.png", 6)
    assert (above != below).any(axis=(1, 2, 3)).all()
