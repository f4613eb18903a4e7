"""Samples as files that other tools read: NumPy archives and folders of PNG files, written batch by batch."""

import csv
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from calibrators.data.batches import Batches, first_inputs
from calibrators.data.input_spec import InputSpec
from calibrators.errors import DataError

PNG_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
_HALF_LEVEL = 0.501 / 255
"""As far as a sample may be from the nearest of 256 levels: half of one, and rounding."""
_BEYOND = "the samples have pixels beyond 0 to 255, which bytes can't hold"

Report = Callable[[int], None]
"""Told how many images are written."""


def levels(x: Float[Tensor, "batch channels height width"], spec: InputSpec) -> Float[Tensor, "..."]:
    """Inputs as pixels, 0 for black to 1 for white, channels last and red first."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (spec.mean, spec.std))
    pixels = x.cpu() * std + mean
    return (pixels.flip(1) if spec.channel_order == "bgr" else pixels).permute(0, 2, 3, 1)


def holds_bytes(x: Float[Tensor, "batch channels height width"], spec: InputSpec) -> bool:
    """Whether a uint8 holds each pixel, to half a level."""
    pixels = levels(x, spec)
    return bool(((pixels >= -_HALF_LEVEL) & (pixels <= 1 + _HALF_LEVEL)).all())


def bytes_from_inputs(x: Float[Tensor, "batch channels height width"], spec: InputSpec) -> NDArray[np.uint8]:
    """Inputs as uint8 pixels, [batch, height, width, channels]: the nearest of the 256 levels."""
    return np.asarray((levels(x, spec).clamp(0, 1) * 255).round().byte().numpy())


def write_images(batches: Batches, spec: InputSpec, path: Path, report: Report) -> list[int]:
    """An archive of ``images``, uint8 N x H x W x C, and ``labels`` where they are known; the labels.

    It is what ``--calib-data`` reads. Where a uint8 can't hold the pixels of the first batch, the images are float32, 0
    for black to 1 for white. Raises DataError where it can't hold those of a later one alone.
    """
    channels, height, width = spec.shape
    whole = holds_bytes(first_inputs(batches, batches.batch_size), spec)
    labels: list[int] = []
    with zipfile.ZipFile(path, "w") as archive:
        shape = (batches.num_samples, height, width, channels)
        with _array(archive, "images", np.dtype(np.uint8 if whole else np.float32), shape) as file:
            for x, y in batches:
                if whole and not holds_bytes(x, spec):
                    raise DataError(f"{_BEYOND}; give -o FILE.npz --normalised")
                pixels = bytes_from_inputs(x, spec) if whole else levels(x, spec).contiguous().numpy()
                file.write(pixels.tobytes())
                labels += y.tolist()
                report(len(labels))
        if is_labelled(labels):
            with _array(archive, "labels", np.dtype(np.int64), (len(labels),)) as file:
                file.write(np.array(labels, np.int64).tobytes())
    return labels


def write_inputs(batches: Batches, spec: InputSpec, name: str, path: Path, report: Report) -> list[int]:
    """An archive of the one array ``name``, float32 N x C x H x W, normalised as the network takes it; the labels.

    It has no other array: ModelOpt's ``--calibration_data_path`` takes as many arrays as the network has inputs.
    """
    labels: list[int] = []
    with (
        zipfile.ZipFile(path, "w") as archive,
        _array(archive, name, np.dtype(np.float32), (batches.num_samples, *spec.shape)) as file,
    ):
        for x, y in batches:
            file.write(x.cpu().contiguous().numpy().tobytes())
            labels += y.tolist()
            report(len(labels))
    return labels


def write_folder(
    batches: Batches,
    spec: InputSpec,
    folder: Path,
    report: Report,
    *,
    names: Sequence[str] | None = None,
    by_class: bool = False,
) -> list[int]:
    """PNG files in ``folder/images``, ``labels.csv`` where labels are known, and ``data.yaml``; the labels.

    ``by_class`` puts each image into a folder of its class, which requires labels. ``data.yaml`` is what
    ``yolo export format=engine int8=True data=...`` takes: the images are both its train and its val part, each with an
    empty list of boxes. Raises DataError for inputs that a PNG file can't hold.
    """
    channels = spec.shape[0]
    if channels not in PNG_MODES:
        raise DataError(f"PNG files have 1 to 4 channels, the network takes {channels}; give -o FILE.npz")
    digits = len(str(batches.num_samples - 1))
    files: list[str] = []
    labels: list[int] = []
    for x, y in batches:
        if not holds_bytes(x, spec):
            raise DataError(f"{_BEYOND}; give -o FILE.npz")
        for pixels, label in zip(bytes_from_inputs(x, spec), y.tolist(), strict=True):
            part = f"images/{label:05}" if by_class else "images"
            files.append(f"{part}/{len(files):0{digits}}.png")
            labels.append(label)
            _write_png(pixels, folder / files[-1])
        report(len(files))
    if is_labelled(labels):
        with (folder / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("file", "label"), *zip(files, labels, strict=True)])
    for name in files:
        listed = folder / Path("labels", *Path(name).parts[1:]).with_suffix(".txt")
        listed.parent.mkdir(parents=True, exist_ok=True)
        listed.touch()
    (folder / "data.yaml").write_text(_data_yaml(names or [str(n) for n in range(max([0, *labels]) + 1)]))
    return labels


def is_labelled(labels: Sequence[int]) -> bool:
    """Whether all labels are known."""
    return bool(labels) and min(labels) >= 0


def _write_png(pixels: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = PNG_MODES[pixels.shape[2]]
    Image.fromarray(pixels[:, :, 0] if mode == "L" else pixels, mode).save(path)


def _data_yaml(names: Sequence[str]) -> str:
    """Without a ``path`` the folders are beside the file; strings of JSON are strings of YAML."""
    listed = "\n".join(f"  {number}: {json.dumps(name)}" for number, name in enumerate(names))
    return f"train: images\nval: images\nnames:\n{listed}\n"


@contextmanager
def _array(
    archive: zipfile.ZipFile, name: str, dtype: np.dtype[np.generic], shape: tuple[int, ...]
) -> Iterator[IO[bytes]]:
    """An array of a NumPy archive, whose values are written by the block."""
    # A time of its own would make other bytes of the same samples.
    member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    with archive.open(member, "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield file
