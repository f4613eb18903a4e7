"""Masks and boxes of images: the layouts, what is refused, and the way through resize and crop."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from calibrators.data.images import images_from_files, images_from_path, sides, size_after
from calibrators.data.input_spec import InputSpec, Resize
from calibrators.data.truths import boxes_on_input, mask_on_input, truths_from_path
from calibrators.errors import DataError

SPEC = InputSpec((3, 8, 8))
GEOMETRIES = [
    (None, None),
    (8, None),
    (8, 8),
    (None, 8),
    (13, 8),
    (5, 8),
    (9, 5),
    ((7, 13), None),
    ((9, 11), 8),
]
SIZES = [(20, 12), (12, 20), (11, 11), (9, 31)]


def image(path: Path, size: tuple[int, int] = (12, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 9, 9)).save(path)
    return path


def mask(path: Path, classes: int = 4, size: tuple[int, int] = (12, 10)) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    indices = np.random.default_rng(0).integers(0, classes, size[::-1]).astype(np.uint8)
    Image.fromarray(indices).save(path)
    return indices


def coco(path: Path, **lists: Any) -> Path:
    """Two images, three categories, a box in a crowd; ``lists`` stand for those of the same name."""
    annotations = [
        {"image_id": 5, "category_id": 90, "bbox": [1, 2, 3, 4.5], "iscrowd": 0},
        {"image_id": 5, "category_id": 3, "bbox": [0, 0, 6, 8]},
        {"image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 1], "iscrowd": 1},
    ]
    document = {
        "images": [{"id": 5, "file_name": "b.png"}, {"id": 2, "file_name": "a.png"}],
        "categories": [{"id": 90, "name": "cup"}, {"id": 3, "name": "car"}, {"id": 17, "name": "cat"}],
        "annotations": annotations,
        **lists,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("images", [".", "images"])
@pytest.mark.parametrize("masks", ["masks", "labels"])
def test_masks_of_the_same_name(images: str, masks: str, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.png"):
        image(tmp_path / images / name)
    a = mask(tmp_path / masks / "a.png")
    mask(tmp_path / masks / "b.png")
    mask(tmp_path / masks / "of-another-set.png")
    truths = truths_from_path(tmp_path, "mask", classes=4)
    assert (truths.kind, len(truths), list(truths)) == (
        "mask",
        2,
        [str(tmp_path / images / name) for name in ("a.jpg", "b.png")],
    )
    assert np.array_equal(truths[str(tmp_path / images / "a.jpg")], a)


def test_truths_go_with_the_batches_of_their_images(tmp_path: Path) -> None:
    for index in range(5):
        image(tmp_path / f"{index}.png")
        mask(tmp_path / "masks" / f"{index}.png", classes=index + 1)
    truths = truths_from_path(tmp_path, "mask")
    batches = images_from_files(truths.files, SPEC, resize=8, crop=8, batch_size=2, limit=3, seed=1)
    assert (batches.labelled, batches.num_samples) == (False, 3)
    assert [len(x) for x, _ in batches] == [2, 1]
    for name in batches.paths:
        assert truths.on_input(name, batches.resize, batches.crop).shape == (8, 8)
    with pytest.raises(DataError, match="a limit of 0"):
        images_from_files(truths.files, SPEC, limit=0)


@pytest.mark.parametrize("mode", ["P", "1", "I;16"])
def test_every_way_to_write_class_indices(mode: str, tmp_path: Path) -> None:
    file = image(tmp_path / "a.png")
    indices = (
        np.random.default_rng(0).integers(0, 2, (10, 12)).astype(np.uint16 if mode == "I;16" else np.uint8)
    )
    written = Image.fromarray(indices * 255).convert("1") if mode == "1" else Image.fromarray(indices)
    if mode == "P":
        written.putpalette([200, 0, 0, 0, 200, 0])
    (tmp_path / "masks").mkdir()
    written.save(tmp_path / "masks" / "a.png")
    assert np.array_equal(truths_from_path(tmp_path, "mask", classes=2)[str(file)], indices)


def test_masks_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    file = image(tmp_path / "a.png")
    place = tmp_path / "masks" / "a.png"
    indices = mask(place, classes=6)
    assert truths_from_path(tmp_path, "mask")[str(file)].max() == 5
    with pytest.raises(
        DataError, match="classes from 0 to 2, and 255 for pixels that don't count, got 0 to 5"
    ):
        truths_from_path(tmp_path, "mask", classes=3)[str(file)]
    Image.fromarray(np.where(indices > 2, 255, indices).astype(np.uint8)).save(place)
    assert truths_from_path(tmp_path, "mask", classes=3)[str(file)].max() == 255
    mask(place, size=(10, 12))
    with pytest.raises(DataError, match=r"12x10, its image a\.png 10x12"):
        truths_from_path(tmp_path, "mask")[str(file)]
    image(place)
    with pytest.raises(DataError, match="mode RGB; expected class indices"):
        truths_from_path(tmp_path, "mask")[str(file)]
    place.write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="can't be read as an image"):
        truths_from_path(tmp_path, "mask")[str(file)]


def test_images_without_masks_are_refused(tmp_path: Path) -> None:
    mask(tmp_path / "masks" / "a.png")
    with pytest.raises(DataError, match="holds no images beside"):
        truths_from_path(tmp_path, "mask")
    for name in ("a", "b", "c"):
        image(tmp_path / f"{name}.jpg")
    with pytest.raises(
        DataError, match=r"2 of 3 images have no mask in .*, the first is b\.jpg; expected b\.png"
    ):
        truths_from_path(tmp_path, "mask")


@pytest.mark.parametrize(
    ("file", "images", "given"),
    [
        ("annotations.json", ".", "."),
        ("annotations.json", "images", "."),
        ("only.json", ".", "."),
        ("val.json", "val", "val.json"),
        ("annotations/instances_val2017.json", "val2017", "annotations/instances_val2017.json"),
    ],
)
def test_boxes_of_coco(file: str, images: str, given: str, tmp_path: Path) -> None:
    a, b = (image(tmp_path / images / name) for name in ("a.png", "b.png"))
    coco(tmp_path / file)
    truths = truths_from_path(tmp_path / given, "boxes", classes=3)
    assert list(truths.class_names) == ["car", "cat", "cup"]
    assert [path.resolve() for path in truths.files] == [b.resolve(), a.resolve()]
    first, second = truths
    assert truths[first].tolist() == [[1, 2, 4, 6.5, 2], [0, 0, 6, 8, 0]]
    assert truths[second].shape == (0, 5)
    # The image is 12x10, so it becomes 9x8 and its middle begins at column 0.
    assert truths.on_input(first, 8, 8)[1].tolist() == pytest.approx([0, 0, 4.5, 6.4, 0])


def test_annotations_json_is_read_before_others(tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    coco(tmp_path / "annotations.json")
    (tmp_path / "another.json").write_text("{}")
    assert len(truths_from_path(tmp_path, "boxes")) == 2
    (tmp_path / "annotations.json").rename(tmp_path / "one.json")
    with pytest.raises(DataError, match="holds no boxes"):
        truths_from_path(tmp_path, "boxes")


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"images": []}, "has no list of images"),
        ({"categories": {"1": "car"}}, "has no list of categories"),
        ({"annotations": None}, "has no list of annotations"),
        ({"images": [{"id": 5}]}, "file_name is missing or wrong in"),
        ({"images": [3]}, "id is missing or wrong in 3"),
        ({"annotations": [{"image_id": 5, "category_id": 3, "bbox": [1, 2, 3]}]}, "bbox is missing or wrong"),
        ({"annotations": [{"image_id": 5, "category_id": 3, "bbox": [1, 2, -3, 4]}]}, "bbox is missing"),
        ({"annotations": [{"image_id": 5, "category_id": 3, "bbox": [1, 2, float("nan"), 4]}]}, "bbox is"),
        (
            {"annotations": [{"image_id": 8, "category_id": 3, "bbox": [1, 2, 3, 4]}]},
            "got image 8 and category 3",
        ),
        (
            {"annotations": [{"image_id": 5, "category_id": 1, "bbox": [1, 2, 3, 4]}]},
            "got image 5 and category 1",
        ),
        (
            {"images": [{"id": 1, "file_name": "b.png"}, {"id": 2, "file_name": "c.png"}]},
            r"1 of the 2 .* is c\.png",
        ),
        ({"images": [{"id": 5, "file_name": "annotations.json"}]}, "expected names of images"),
    ],
)
def test_annotations_that_do_not_fit_are_refused(lists: dict[str, Any], words: str, tmp_path: Path) -> None:
    image(tmp_path / "a.png")
    image(tmp_path / "b.png")
    coco(tmp_path / "annotations.json", **lists)
    with pytest.raises(DataError, match=words):
        truths_from_path(tmp_path, "boxes")


def test_another_number_of_classes_is_refused(tmp_path: Path) -> None:
    coco(tmp_path / "annotations.json")
    with pytest.raises(DataError, match="has 3 categories, the network has 80 classes"):
        truths_from_path(tmp_path, "boxes", classes=80)
    (tmp_path / "annotations.json").write_text("[1")
    with pytest.raises(DataError, match="is no JSON"):
        truths_from_path(tmp_path, "boxes")


def test_labels_of_the_wrong_kind_are_refused(tmp_path: Path) -> None:
    wrong = "labels of the wrong kind for the task: "
    image(tmp_path / "mask" / "a.png")
    mask(tmp_path / "mask" / "masks" / "a.png")
    with pytest.raises(DataError, match=f"{wrong}a class for each pixel, where it requires boxes"):
        truths_from_path(tmp_path / "mask", "boxes")
    file = coco(tmp_path / "boxes" / "annotations.json")
    for given in (file, file.parent):
        with pytest.raises(DataError, match=f"{wrong}boxes, where it requires a class for each pixel"):
            truths_from_path(given, "mask")
    image(tmp_path / "classes" / "cat" / "a.png")
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "labels.csv").write_text("file,label\n")
    (tmp_path / "some.npz").write_bytes(b"")
    for name in ("classes", "csv", "some.npz"):
        with pytest.raises(DataError, match=f"{wrong}at most a class an image, where it requires boxes"):
            truths_from_path(tmp_path / name, "boxes")
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no class for each pixel; expected a folder of images with"):
        truths_from_path(tmp_path / "none", "mask")
    with pytest.raises(DataError, match="there is no folder or file"):
        truths_from_path(tmp_path / "nowhere", "mask")


@pytest.mark.parametrize(("resize", "crop"), GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
def test_masks_go_the_way_of_the_images(
    size: tuple[int, int], resize: Resize | None, crop: int | None, tmp_path: Path
) -> None:
    width, height = size
    # The image is as wide and high as its mask, in large squares whose middles no resize moves.
    indices = (
        np.uint16([[0, 300], [7, 2]]).repeat(-(-height // 2), 0)[:height].repeat(-(-width // 2), 1)[:, :width]
    )
    found = mask_on_input(indices, resize, crop)
    assert found.shape[::-1] == size_after(size, resize, crop)
    assert found.dtype == np.uint16
    assert set(np.unique(found)) <= {0, 300, 7, 2}
    pixels = np.stack([np.where(indices == 300, 255, 0)] * 3, axis=2).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    spec = InputSpec((3, *found.shape))
    ((x, _),) = images_from_path(tmp_path, spec, resize=resize, crop=crop)
    sure = (x[0, 0] < 0.2) | (x[0, 0] > 0.8)
    assert sure.double().mean() > 0.5
    assert torch.equal(x[0, 0][sure] > 0.5, torch.from_numpy(found == 300)[sure])


@pytest.mark.parametrize(("resize", "crop"), GEOMETRIES)
@pytest.mark.parametrize("size", SIZES)
def test_boxes_go_the_way_that_torchvision_takes(
    size: tuple[int, int], resize: Resize | None, crop: int | None
) -> None:
    width, height = size
    corners = np.random.default_rng(0).uniform(0, 1, (60, 2, 2)) * np.array(size)
    boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1), np.arange(60.0)[:, None]], axis=1)
    found = boxes_on_input(boxes, size, resize, crop)
    theirs = tv_tensors.BoundingBoxes(
        torch.from_numpy(boxes[:, :4]), format="XYXY", canvas_size=(height, width), dtype=torch.float64
    )
    if resize is not None:
        theirs = v2.functional.resize(theirs, sides(resize))
    if crop is not None and min(theirs.canvas_size) >= crop:
        theirs = v2.functional.center_crop(theirs, [crop])
    assert theirs.canvas_size == size_after(size, resize, crop)[::-1]
    kept = found[:, 4].astype(int)
    np.testing.assert_allclose(
        found[:, :4], v2.functional.clamp_bounding_boxes(theirs).numpy()[kept], atol=1e-4
    )
    assert len(kept) > 10


def test_a_box_that_the_crop_all_but_removes_is_dropped() -> None:
    # 16x8: the crop takes columns 4 to 12.
    boxes = np.float64([[0, 0, 5, 8, 1], [0, 0, 8, 8, 2], [12, 0, 16, 8, 3], [6, 2, 6, 4, 4]])
    assert boxes_on_input(boxes, (16, 8), None, 8).tolist() == [[0, 0, 4, 8, 2]]
    assert len(boxes_on_input(boxes, (16, 8), None, None)) == 3
    assert boxes_on_input(np.zeros((0, 5)), (16, 8), 4, 4).shape == (0, 5)
