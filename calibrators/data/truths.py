"""What is really on images: a class for each pixel, or boxes, and both after the resize and crop of the images."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Integer
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from calibrators.data.images import SUFFIXES, image_size, is_image, opened_image, sides, size_after
from calibrators.data.input_spec import Resize
from calibrators.errors import DataError
from zscgan_common.text import first_line, shortened

Kind = Literal["boxes", "mask"]

MASK_FOLDERS = ("masks", "labels")
IGNORED = 255
"""Of a mask's pixels that don't count."""
ANNOTATIONS = "annotations.json"
LEAST_VISIBLE = 0.25
"""The share of a box's area that the crop has to leave, so that it counts."""
_INDEX_MODES = ("1", "L", "P", "I", "I;16")
_EXPECTED: Mapping[Kind, str] = {
    "mask": (
        "a folder of images with a folder masks/ in it, of one PNG an image, of the same name and with class indices "
        "as pixels (255: not counted)"
    ),
    "boxes": f"a folder of images with COCO's {ANNOTATIONS} in it, or such a .json beside the images",
}
_HOLDS = {"mask": "a class for each pixel", "boxes": "boxes"}


@dataclass(frozen=True)
class Truths:
    """The truth of each of the images at ``files``, under the path that ``ImageBatches.paths`` has for it.

    A mask is (height, width) of integers, boxes are (boxes, 5): left, top, right, bottom in pixels of the image, and
    the class. ``class_names`` are those of boxes.
    """

    kind: Kind
    files: Sequence[Path]
    read: Callable[[str], NDArray[Any]]
    class_names: Sequence[str] = ()

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return map(str, self.files)

    def __len__(self) -> int:
        return len(self.files)

    def on_input(self, name: str, resize: Resize | None, crop: int | None) -> NDArray[Any]:
        """The truth of an image after its resize and crop."""
        if self.kind == "mask":
            return mask_on_input(self[name], resize, crop)
        return boxes_on_input(self[name], image_size(Path(name)), resize, crop)


def has_truths(path: Path) -> bool:
    """Whether there are masks or boxes at ``path``, or it is no folder of images without labels."""
    return path.suffix.lower() == ".json" or (path.is_dir() and bool(_found_kinds(path)))


def truths_from_path(path: Path | str, kind: Kind, *, classes: int | None = None) -> Truths:
    """Images and what is on them.

    For "mask" ``path`` is a folder with images, in it or in its folder ``images``, and with their masks in ``masks``
    or ``labels``. For "boxes" it is a .json of COCO's beside the images, or a folder with one. Its categories become
    classes in the order of their ids. ``classes`` is the number of those that the network has. Raises DataError for
    labels of another kind, for images that are missing or have no mask, and for files that can't be read; for a mask
    when it is asked for.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"there is no folder or file {path}; expected {_EXPECTED[kind]}")
    try:
        found = _found_kinds(path)
        if kind not in found:
            raise DataError(_wrong_kind(path, kind, list(found)))
        return (_masks if kind == "mask" else _boxes)(path, found[kind], classes)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error


def mask_on_input(
    mask: Integer[np.ndarray, "height width"], resize: Resize | None, crop: int | None
) -> Integer[np.ndarray, "rows columns"]:
    """A mask after ``images.pixels_from_image``; each pixel has the class of the nearest one."""
    image = Image.fromarray(mask.astype(np.int32))
    if resize is not None:
        image = F.resize(image, sides(resize), interpolation=InterpolationMode.NEAREST)
    if crop is not None and min(image.size) >= crop:
        image = F.center_crop(image, [crop])
    found: NDArray[Any] = np.asarray(image).astype(mask.dtype)
    return found


def boxes_on_input(
    boxes: Float[np.ndarray, "boxes 5"], size: tuple[int, int], resize: Resize | None, crop: int | None
) -> Float[np.ndarray, "left 5"]:
    """Boxes on an image of this width and height after ``images.pixels_from_image``.

    They are cut off at the crop; those of which it leaves less than LEAST_VISIBLE are dropped.
    """
    whole, shown = size_after(size, resize, None), size_after(size, resize, crop)
    scale = np.array(whole) / np.array(size)
    corner = np.array([round((a - b) / 2) for a, b in zip(whole, shown, strict=True)])  # as torchvision cuts
    moved = boxes[:, :4] * np.tile(scale, 2) - np.tile(corner, 2)
    cut = np.clip(moved, 0, np.tile(shown, 2))
    area, left = (np.prod(corners[:, 2:] - corners[:, :2], axis=1) for corners in (moved, cut))
    kept = (left > 0) & (left >= LEAST_VISIBLE * area)
    found: NDArray[Any] = np.concatenate([cut, boxes[:, 4:]], axis=1)[kept]
    return found


def _found_kinds(path: Path) -> dict[Kind, Path]:
    """The kinds of labels at ``path``, with the folder of masks or the .json of boxes."""
    if path.is_file():
        return {"boxes": path} if path.suffix.lower() == ".json" else {}
    found: dict[Kind, Path] = {}
    for name in MASK_FOLDERS:
        if (path / name).is_dir() and any(is_image(file) for file in (path / name).iterdir()):
            found.setdefault("mask", path / name)
    files = sorted(path.glob("*.json"))
    if (path / ANNOTATIONS).is_file() or len(files) == 1:
        found["boxes"] = path / ANNOTATIONS if (path / ANNOTATIONS).is_file() else files[0]
    return found


def _wrong_kind(path: Path, kind: Kind, found: Sequence[Kind]) -> str:
    if found:
        return (
            f"{path} holds labels of the wrong kind for the task: {_HOLDS[found[0]]}, where it requires "
            f"{_HOLDS[kind]}; expected {_EXPECTED[kind]}"
        )
    of_classes = path.suffix == ".npz" or (path / "labels.csv").is_file()
    of_classes = of_classes or (path.is_dir() and any(entry.is_dir() for entry in path.iterdir()))
    if of_classes:
        return (
            f"{path} holds labels of the wrong kind for the task: at most a class an image, where it requires "
            f"{_HOLDS[kind]}; expected {_EXPECTED[kind]}"
        )
    return f"{path} holds no {_HOLDS[kind].removeprefix('a ')}; expected {_EXPECTED[kind]}"


def _masks(folder: Path, masks: Path, classes: int | None) -> Truths:
    """Images and masks of the same name."""
    place = folder / "images" if (folder / "images").is_dir() else folder
    files = sorted(file for file in place.iterdir() if is_image(file))
    if not files:
        raise DataError(f"{place} holds no images beside {masks}; expected {_EXPECTED['mask']}")
    by_stem = {file.stem: file for file in sorted(masks.iterdir()) if is_image(file)}
    absent = [file.name for file in files if file.stem not in by_stem]
    if absent:
        raise DataError(
            f"{len(absent)} of {len(files)} images have no mask in {masks}, the first is {absent[0]}; expected "
            f"{Path(absent[0]).stem}.png there, or remove the image"
        )
    of = {str(file): by_stem[file.stem] for file in files}
    return Truths("mask", files, lambda name: _mask(of[name], Path(name), classes))


def _mask(path: Path, image: Path, classes: int | None) -> NDArray[Any]:
    """The class indices in ``path``, as many as ``image`` has pixels."""
    with opened_image(path) as file:
        mode, indices = file.mode, np.asarray(file)
    if mode not in _INDEX_MODES:
        raise DataError(
            f"{path} has pixels of mode {mode}; expected class indices, a PNG of grey values or with a palette"
        )
    indices = indices.astype(np.uint8 if indices.dtype == np.bool_ else indices.dtype)
    size = image_size(image)
    if indices.shape != size[::-1]:
        raise DataError(
            f"{path} is {indices.shape[0]}x{indices.shape[1]}, its image {image.name} {size[1]}x{size[0]}; expected a "
            "mask of the image's size"
        )
    counted = indices[indices != IGNORED]
    if classes is not None and counted.size and not 0 <= counted.min() <= counted.max() < classes:
        raise DataError(
            f"{path}: expected classes from 0 to {classes - 1}, and {IGNORED} for pixels that don't count, got "
            f"{counted.min()} to {counted.max()}"
        )
    return indices


def _boxes(path: Path, file: Path, classes: int | None) -> Truths:
    """Images and boxes that a .json of COCO's names."""
    document = _document(file)
    names = {category["id"]: category["name"] for category in document["categories"]}
    class_of = {number: index for index, number in enumerate(sorted(names))}
    if classes is not None and len(names) != classes:
        raise DataError(
            f"{file} has {len(names)} categories, the network has {classes} classes; expected as many, in the order of "
            "their ids"
        )
    place = _place(file, path, [entry["file_name"] for entry in document["images"]])
    of = {entry["id"]: str(place / entry["file_name"]) for entry in document["images"]}
    rows: dict[str, list[list[float]]] = {name: [] for name in of.values()}
    for entry in document["annotations"]:
        if entry["image_id"] not in of or entry["category_id"] not in class_of:
            raise DataError(
                f"{file}: expected annotations of its images and categories, got image "
                f"{shortened(repr(entry['image_id']))} and category {shortened(repr(entry['category_id']))}"
            )
        if not entry.get("iscrowd"):
            left, top, width, height = entry["bbox"]
            corners = [left, top, left + width, top + height]
            rows[of[entry["image_id"]]].append([*corners, class_of[entry["category_id"]]])
    arrays = {name: np.array(boxes, dtype=np.float64).reshape(-1, 5) for name, boxes in rows.items()}
    return Truths(
        "boxes", [Path(name) for name in arrays], arrays.__getitem__, [names[n] for n in sorted(names)]
    )


def _place(file: Path, path: Path, names: Sequence[str]) -> Path:
    """The folder below which the images are. COCO has annotations/instances_val2017.json beside val2017/."""
    beside = file.parent
    folders = [beside, beside / "images", beside / file.stem, beside.parent / file.stem.rpartition("_")[2]]
    folders = [*([path, path / "images"] if path.is_dir() else []), *folders]
    place = next((folder for folder in folders if (folder / names[0]).is_file()), folders[0])
    absent = [name for name in names if not (place / name).is_file()]
    if absent:
        raise DataError(
            f"{len(absent)} of the {len(names)} images that {file} names are not in {place}, the first is "
            f"{shortened(absent[0])}; put them there, or remove them from the file"
        )
    foreign = [name for name in names if Path(name).suffix.lower() not in SUFFIXES]
    if foreign:
        raise DataError(f"{file}: expected names of images, got {shortened(foreign[0])}")
    return place


def _document(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The lists of a .json of COCO's, whose entries have what is read of them."""
    try:
        document: Any = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is no JSON ({first_line(error)}); expected {_EXPECTED['boxes']}") from error
    for name, fields in _FIELDS.items():
        entries = document.get(name) if isinstance(document, dict) else None
        if not isinstance(entries, list) or not (entries or name == "annotations"):
            raise DataError(f"{file} has no list of {name}; expected {_EXPECTED['boxes']}")
        for entry in entries:
            wrong = [
                key
                for key, right in fields.items()
                if not (isinstance(entry, dict) and right(entry.get(key)))
            ]
            if wrong:
                raise DataError(
                    f"{file}: expected {' and '.join(fields)} for each of its {name}, but {wrong[0]} is missing or "
                    f"wrong in {shortened(json.dumps(entry), 100)}"
                )
    found: dict[str, list[dict[str, Any]]] = document
    return found


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_box(value: object) -> bool:
    """Left, top, width and height."""
    if not isinstance(value, list) or len(value) != 4:
        return False
    numbers = [number for number in value if isinstance(number, int | float) and abs(number) < 1e9]
    return len(numbers) == 4 and all(map(math.isfinite, numbers)) and min(numbers[2:]) >= 0


_FIELDS: Mapping[str, Mapping[str, Callable[[object], bool]]] = {
    "images": {"id": _is_id, "file_name": _is_text},
    "categories": {"id": _is_id, "name": _is_text},
    "annotations": {"image_id": _is_id, "category_id": _is_id, "bbox": _is_box},
}
"""What has to be in a .json of COCO's."""
