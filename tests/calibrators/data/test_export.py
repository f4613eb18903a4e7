"""Samples as archives and folders: what is in them, and that they are read back as they were."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calibrators.data.batches import TensorBatches, random_pixels
from calibrators.data.export import write_folder, write_images, write_inputs
from calibrators.data.images import images_from_path
from calibrators.data.input_spec import InputSpec
from calibrators.errors import DataError

SPEC = InputSpec((3, 5, 6), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


BGR = InputSpec((3, 5, 6), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), "bgr")


def some(count: int = 7, spec: InputSpec = SPEC, label: int | None = None) -> TensorBatches:
    labels = torch.arange(count) % 3 if label is None else torch.full((count,), label)
    return TensorBatches(random_pixels(spec, count, 0), labels, 3)


def nothing(_done: int) -> None:
    """Progress that nobody sees."""


def inputs_at(path: Path, spec: InputSpec = SPEC) -> torch.Tensor:
    return torch.cat([x for x, _ in images_from_path(path, spec)])


@pytest.mark.parametrize("spec", [SPEC, BGR], ids=lambda spec: spec.channel_order)
def test_an_archive_is_read_as_calibration_data(tmp_path: Path, spec: InputSpec) -> None:
    told: list[int] = []
    labels = write_images(some(), spec, tmp_path / "a.npz", told.append)
    assert (labels, told) == ([0, 1, 2, 0, 1, 2, 0], [3, 6, 7])
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["images"].shape == (7, 5, 6, 3)
        assert archive["labels"].tolist() == labels
    half_level = 0.5 / 255 / torch.tensor(SPEC.std).view(-1, 1, 1)
    assert ((inputs_at(tmp_path / "a.npz", spec) - some().x).abs() <= half_level + 1e-6).all()


def test_the_same_samples_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        write_images(some(), SPEC, tmp_path / name, nothing)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_without_labels_there_is_no_array_of_them(tmp_path: Path) -> None:
    write_images(some(label=-1), SPEC, tmp_path / "a.npz", nothing)
    with np.load(tmp_path / "a.npz") as archive:
        assert archive.files == ["images"]


def test_pixels_beyond_bytes_stay_floats(tmp_path: Path) -> None:
    beyond = TensorBatches(some().x * 3, some().y, 3)
    write_images(beyond, SPEC, tmp_path / "a.npz", nothing)
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (SPEC.mean, SPEC.std))
    with np.load(tmp_path / "a.npz") as archive:
        assert archive["images"].dtype == np.float32
        pixels = torch.from_numpy(archive["images"]).permute(0, 3, 1, 2)
    assert torch.allclose((pixels - mean) / std, beyond.x, atol=1e-5)
    with pytest.raises(DataError, match=r"beyond 0 to 255.*FILE.npz"):
        write_folder(beyond, SPEC, tmp_path / "folder", nothing)


def test_one_pixel_beyond_in_a_later_batch_is_refused(tmp_path: Path) -> None:
    later = some()
    later.x[-1, 0, 0, 0] = 50.0
    with pytest.raises(DataError, match=r"beyond 0 to 255.*--normalised"):
        write_images(later, SPEC, tmp_path / "a.npz", nothing)


def test_inputs_are_the_very_values(tmp_path: Path) -> None:
    write_inputs(some(), SPEC, "pixels", tmp_path / "a.npz", nothing)
    with np.load(tmp_path / "a.npz") as archive:
        assert archive.files == ["pixels"]
        assert np.array_equal(archive["pixels"], some().x.numpy())


@pytest.mark.parametrize("by_class", [False, True])
def test_a_folder_is_read_as_calibration_data(tmp_path: Path, by_class: bool) -> None:
    write_folder(some(), SPEC, tmp_path, nothing, names=["a", "b: c", "no"], by_class=by_class)
    again = images_from_path(tmp_path, SPEC)
    assert list(again.labels) == [0, 1, 2, 0, 1, 2, 0]
    half_level = 0.5 / 255 / torch.tensor(SPEC.std).view(-1, 1, 1)
    assert ((inputs_at(tmp_path) - some().x).abs() <= half_level + 1e-6).all()
    if by_class:
        folders = images_from_path(tmp_path / "images", SPEC)
        assert sorted(folders.labels) == [0, 0, 0, 1, 1, 2, 2]
    images = sorted(path.relative_to(tmp_path / "images") for path in (tmp_path / "images").rglob("*.png"))
    boxes = sorted(path.relative_to(tmp_path / "labels") for path in (tmp_path / "labels").rglob("*.txt"))
    assert [path.with_suffix("") for path in images] == [path.with_suffix("") for path in boxes]
    assert (tmp_path / "data.yaml").read_text() == (
        'train: images\nval: images\nnames:\n  0: "a"\n  1: "b: c"\n  2: "no"\n'
    )


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_grey_and_four_channels(tmp_path: Path, channels: int, mode: str) -> None:
    spec = InputSpec((channels, 4, 4))
    write_folder(some(2, spec, label=-1), spec, tmp_path, nothing)
    assert not (tmp_path / "labels.csv").exists()
    # Ultralytics refuses a file without names, and takes a path for one from where it runs.
    assert (tmp_path / "data.yaml").read_text() == 'train: images\nval: images\nnames:\n  0: "0"\n'
    with Image.open(tmp_path / "images" / "0.png") as image:
        assert (image.mode, image.size) == (mode, (4, 4))


def test_five_channels_are_no_png(tmp_path: Path) -> None:
    spec = InputSpec((5, 4, 4))
    with pytest.raises(DataError, match=r"1 to 4 channels, the network takes 5; give -o FILE.npz"):
        write_folder(some(2, spec), spec, tmp_path, nothing)
