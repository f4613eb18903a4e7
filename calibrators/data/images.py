"""Real images, with or without labels, as batches that are decoded while they are iterated."""

import csv
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from calibrators.data.batches import Batch, made_ahead
from calibrators.data.input_spec import InputSpec, Resize
from calibrators.errors import DataError
from zscgan_common.text import first_line, shortened

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
UNKNOWN = -1
_MOST_DIGITS = 9  # of a class index
MOST_LOOKED_AT = 10_000
"""Files that are opened before the work begins."""
_LAYOUT = (
    "expected a folder with one folder of images a class, a folder of images with labels.csv (file,label), a "
    "folder of images, or a .npz with images"
)


@contextmanager
def opened_image(path: Path) -> Iterator[Image.Image]:
    """An image file that is being read. Raises DataError for what is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow, about tags that don't change the pixels
            with Image.open(path) as file:
                yield file
    except Exception as error:  # Pillow's decoders have no common base for what damaged files lead to
        raise DataError(
            f"{path} can't be read as an image ({first_line(error)}); repair or remove it"
        ) from error


@dataclass(frozen=True)
class _Files:
    """Image files."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, index: int) -> Image.Image:
        with opened_image(self.paths[index]) as file:
            file.load()
            return Image.Image.copy(file)

    def size(self, index: int) -> tuple[int, int]:
        """Width and height, from the file's first bytes."""
        return image_size(self.paths[index])

    def name(self, index: int) -> str:
        return str(self.paths[index])


@dataclass(frozen=True)
class _Array:
    """Images of one array, [images, height, width] or with channels last."""

    path: Path
    images: UInt8[np.ndarray, "images height width *channels"]

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> Image.Image:
        pixels = self.images[index]
        return Image.fromarray(pixels[:, :, 0] if pixels.shape[2:] == (1,) else pixels)

    def size(self, _index: int) -> tuple[int, int]:
        """Width and height."""
        return self.images.shape[2], self.images.shape[1]

    def name(self, index: int) -> str:
        return f"{self.path}, image {index}"


_Source = _Files | _Array


@dataclass(frozen=True)
class ImageBatches:
    """Real images, normalised as ``spec`` says; nothing but one batch is held in memory as tensors.

    ``order`` are the indices that were taken, ``labels`` belongs to the whole source (UNKNOWN without).
    """

    source: _Source
    labels: Sequence[int]
    order: Sequence[int]
    spec: InputSpec
    batch_size: int
    labelled: bool
    resize: Resize | None = None
    crop: int | None = None

    @property
    def num_samples(self) -> int:
        return len(self.order)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where each image comes from, in the order of iteration."""
        return tuple(self.source.name(index) for index in self.order)

    def __iter__(self) -> Iterator[Batch]:
        return self.every(0, 1)

    def every(self, first: int, step: int) -> Iterator[Batch]:
        """Every ``step``-th batch, from the ``first`` on; the images of the others are not decoded."""
        return made_ahead(
            self._batch, range(first * self.batch_size, len(self.order), step * self.batch_size)
        )

    def _batch(self, start: int) -> Batch:
        chosen = self.order[start : start + self.batch_size]
        x = torch.stack([self._normalised(index) for index in chosen])
        return x, torch.tensor([self.labels[index] for index in chosen], dtype=torch.int64)

    def _normalised(self, index: int) -> Float[Tensor, "channels height width"]:
        """One image; raises DataError where its size isn't the network's."""
        pixels = pixels_from_image(self.source.image(index), self.spec, self.resize, self.crop)
        self._require_size(index, (pixels.shape[2], pixels.shape[1]))
        return pixels

    def require_sizes(self) -> None:
        """Raise DataError for a file that is no image or of another size than the network's, without decoding any.

        Of very many images, those at even distances are looked at.
        """
        for index in self.order[:: -(-len(self.order) // MOST_LOOKED_AT)]:
            self._require_size(index, size_after(self.source.size(index), self.resize, self.crop))

    def _require_size(self, index: int, size: tuple[int, int]) -> None:
        _, height, width = self.spec.shape
        if size != (width, height):
            got, wanted = f"{size[1]}x{size[0]}", f"{height}x{width}"
            square = f"--resize {height} --crop {height}, " if height == width else ""
            raise DataError(
                f"{self.source.name(index)} is {got} after --resize and --crop, the network takes {wanted}; add "
                f"{square}--resize {wanted} to stretch images, or the sizes of its training"
            )


def shared_images(one: ImageBatches, other: ImageBatches) -> int:
    """How many images of ``one`` are in ``other`` too: the same files, copies of them, or the same pixels in a .npz.

    Where very many files have to be read for it, copies go unnoticed.
    """
    ours, theirs = one.source, other.source
    if isinstance(ours, _Array) and isinstance(theirs, _Array):
        known = {theirs.images[index].tobytes() for index in other.order}
        return sum(ours.images[index].tobytes() in known for index in one.order)
    if isinstance(ours, _Files) and isinstance(theirs, _Files):
        return _shared_files(
            [ours.paths[index].resolve() for index in one.order],
            {theirs.paths[index].resolve() for index in other.order},
        )
    return 0


def _shared_files(ours: Sequence[Path], theirs: set[Path]) -> int:
    rest = [path for path in ours if path not in theirs]
    sizes = {path.stat().st_size for path in rest}
    alike = [path for path in theirs if path.stat().st_size in sizes] if rest else []
    if len(alike) > MOST_LOOKED_AT:
        return len(ours) - len(rest)
    known = {_digest(path) for path in alike}
    return len(ours) - len(rest) + sum(_digest(path) in known for path in rest if known)


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def images_from_path(
    path: Path | str,
    spec: InputSpec,
    *,
    resize: Resize | None = None,
    crop: int | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    seed: int = 0,
    classes: int | None = None,
    require_labels: bool = False,
) -> ImageBatches:
    """The images at ``path``, in one of four layouts.

    Class folders (their sorted names are the class indices), a folder with ``labels.csv`` (header
    ``file,label``, labels are class indices), a folder of images without labels, or an ``.npz`` with
    ``images`` (uint8, N x H x W x C or N x H x W) and perhaps ``labels``. ``resize`` is the shorter side, or
    height and width, and ``crop`` the side of the central square. ``limit`` takes a random subset of the given
    ``seed``, even over the classes where there are labels. Raises DataError, also while iterating for files that
    can't be decoded or have another size.
    """
    path = Path(path)
    _require_usable(spec, limit)
    source, labels, folders = _source_from_path(path)
    if not len(source):
        raise DataError(f"{path} holds no images; {_LAYOUT}")
    if labels is None and require_labels:
        raise DataError(f"{path} has no labels, and accuracy can't be measured without; {_LAYOUT} and labels")
    if folders and classes is not None and folders != classes:
        raise DataError(
            f"{path} has {folders} class folders, the network has {classes} classes; expected one for "
            "each (their sorted names are the class indices), or name classes in a labels.csv (file,label)"
        )
    if labels is not None and classes is not None:
        _check_range(path, source, labels, classes)
    known = labels if labels is not None else [UNKNOWN] * len(source)
    order = _subset(known, limit, seed)
    return ImageBatches(source, known, order, spec, batch_size, labels is not None, resize, crop)


def images_from_files(
    files: Sequence[Path],
    spec: InputSpec,
    *,
    resize: Resize | None = None,
    crop: int | None = None,
    batch_size: int = 64,
    limit: int | None = None,
    seed: int = 0,
) -> ImageBatches:
    """The images in ``files``, without labels; the rest as ``images_from_path`` has it."""
    _require_usable(spec, limit)
    unknown = [UNKNOWN] * len(files)
    return ImageBatches(
        _Files(files), unknown, _subset(unknown, limit, seed), spec, batch_size, False, resize, crop
    )


def _require_usable(spec: InputSpec, limit: int | None) -> None:
    """Raise DataError for a network that takes no images, or for a limit of none."""
    if spec.shape[0] not in (1, 3):
        raise DataError(
            f"images have 1 or 3 channels, the network takes {spec.shape[0]}; give it no image data"
        )
    if limit is not None and limit < 1:
        raise DataError(f"expected at least 1 image, got a limit of {limit}")


def image_size(path: Path) -> tuple[int, int]:
    """Width and height, from the file's first bytes. Raises DataError for what is no image."""
    with opened_image(path) as file:
        return file.size


def is_image(path: Path) -> bool:
    """Whether it is a file that is called as images are."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def size_after(size: tuple[int, int], resize: Resize | None, crop: int | None) -> tuple[int, int]:
    """Width and height of an image of this width and height after ``pixels_from_image``."""
    if isinstance(resize, tuple):
        size = resize[1], resize[0]
    elif resize is not None:
        short, long = sorted(size)
        longer = int(resize * long / short)
        size = (resize, longer) if size[0] <= size[1] else (longer, resize)
    return (crop, crop) if crop is not None and min(size) >= crop else size


def sides(resize: Resize) -> list[int]:
    """``resize`` as torchvision takes it."""
    return list(resize) if isinstance(resize, tuple) else [resize]


def pixels_from_image(
    image: Image.Image, spec: InputSpec, resize: Resize | None = None, crop: int | None = None
) -> Float[Tensor, "channels height width"]:
    """``(pixel / 255 - mean) / std`` of ``image`` in the network's order or as grey, resized, its centre cut out.

    Bit for bit as the transforms that come with torchvision's weights do it, bilinear and antialiased: therefore on
    the decoded image, and without v2's ``to_dtype``, which multiplies by a rounded 1 / 255. A crop that is larger
    than the image leaves it as it is, where torchvision would add a black border.
    """
    image = image.convert("RGB" if spec.shape[0] == 3 else "L")
    if resize is not None:
        image = F.resize(image, sides(resize))
    if crop is not None and min(image.size) >= crop:
        image = F.center_crop(image, [crop])
    pixels = F.pil_to_tensor(image)
    pixels = pixels.flip(0) if spec.channel_order == "bgr" else pixels
    normalised: Tensor = F.normalize(pixels / 255, list(spec.mean), list(spec.std))
    return normalised


def _source_from_path(path: Path) -> tuple[_Source, list[int] | None, int]:
    """The images at ``path``, their labels (None without) and the number of class folders."""
    if path.is_file():
        if path.suffix != ".npz":
            raise DataError(f"{path} is a {path.suffix or 'plain'} file; {_LAYOUT}")
        return *_npz(path), 0
    if not path.is_dir():
        raise DataError(f"there is no folder or file {path}; {_LAYOUT}")
    try:
        if (path / "labels.csv").is_file():
            return *_csv(path), 0
        folders = sorted(
            entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )
        by_class = [_images_below(folder) for folder in folders]
        loose = sorted(file for file in path.iterdir() if is_image(file))
        if any(by_class) and loose:
            raise DataError(
                f"{path} holds class folders and also images beside them ({loose[0].name}); {_LAYOUT}"
            )
        if any(by_class):
            paths = [file for files in by_class for file in files]
            return _Files(paths), [n for n, files in enumerate(by_class) for _ in files], len(folders)
        return _Files(loose), None, 0
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror}") from error


def _images_below(folder: Path) -> list[Path]:
    """Image files of ``folder`` and the folders in it, sorted."""
    return sorted(file for file in folder.rglob("*") if is_image(file))


def _csv(folder: Path) -> tuple[_Source, list[int]]:
    """Images and labels that ``labels.csv`` lists."""
    path = folder / "labels.csv"
    paths, labels = [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            absent = [name for name in ("file", "label") if name not in (rows.fieldnames or ())]
            if absent:
                raise DataError(
                    f"{path} has no column {' and '.join(absent)}, its header is "
                    f"{shortened(','.join(rows.fieldnames or ()))}; expected the header file,label"
                )
            for row in rows:
                text, image = row["label"] or "", folder / (row["file"] or "")
                if not text.strip().isdecimal() or len(text.strip()) > _MOST_DIGITS:
                    raise DataError(
                        f"{path}, line {rows.line_num}: expected a class index from 0 up, got {shortened(text)!r}"
                    )
                if not image.is_file():
                    raise DataError(f"{path}, line {rows.line_num}: there is no file {shortened(str(image))}")
                paths.append(image)
                labels.append(int(text))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} is no CSV text ({error}); expected the header file,label") from error
    return _Files(paths), labels


def _arrays(path: Path) -> dict[str, np.ndarray | None]:
    """The arrays of a NumPy archive by name, those that are no images or labels as None; nothing is unpickled."""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            names = getattr(archive, "files", [])  # a single array (.npy) has none
            arrays = {name: archive[name] if name in ("images", "labels") else None for name in names}
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} can't be read as a .npz of plain arrays: {first_line(error)}") from error
    except Exception as error:  # of zipfile, zlib and NumPy, which have no common base
        raise DataError(f"{path} is truncated or damaged: {first_line(error)}") from error
    if any(isinstance(array, bytes) for array in arrays.values()):  # a member that is no array
        raise DataError(f"{path} is truncated or damaged: 'images' or 'labels' is no array")
    return arrays


def _npz(path: Path) -> tuple[_Source, list[int] | None]:
    """Images and labels of a NumPy archive."""
    arrays = _arrays(path)
    images, labels = arrays.get("images"), arrays.get("labels")
    if images is None:
        raise DataError(f"{path} has no array 'images' (it has {shortened(', '.join(arrays)) or 'no names'})")
    if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))):
        raise DataError(
            f"{path}: expected images of uint8, N x H x W x 3 or N x H x W, got {images.dtype} "
            f"{' x '.join(map(str, images.shape))}"
        )
    if labels is None:
        return _Array(path, images), None
    if labels.shape != (len(images),) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(
            f"{path}: expected {len(images)} integer labels, one an image, got {labels.dtype} "
            f"{' x '.join(map(str, labels.shape))}"
        )
    return _Array(path, images), [int(label) for label in labels]


def _check_range(path: Path, source: _Source, labels: Sequence[int], classes: int) -> None:
    """Raise DataError for a label that isn't one of the network's classes."""
    for index, label in enumerate(labels):
        if not 0 <= label < classes:
            raise DataError(
                f"{path}: expected labels from 0 to {classes - 1} (the network has {classes} classes), "
                f"got {label} for {source.name(index)}"
            )


def _subset(labels: Sequence[int], limit: int | None, seed: int) -> list[int]:
    """``limit`` indices, picked at random in turn from every class, so that batches mix the classes.

    Unlabelled images are one class. All indices where ``limit`` is None or not below their number.
    """
    if limit is None or limit >= len(labels):
        return list(range(len(labels)))
    generator = torch.Generator().manual_seed(seed)
    taken: dict[int, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for index in torch.randperm(len(labels), generator=generator).tolist():
        turn = taken.get(labels[index], 0)
        taken[labels[index]] = turn + 1
        ranked.append((turn, len(ranked), index))
    return [index for _, _, index in sorted(ranked)[:limit]]
