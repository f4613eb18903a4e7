"""Real images: the four layouts, their preprocessing against torchvision's, and what is refused."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms._presets import ImageClassification

from calibrators.data.images import images_from_path, pixels_from_image, size_after
from calibrators.data.input_spec import InputSpec, Resize
from calibrators.errors import DataError

SPEC = InputSpec((3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
UNIT = InputSpec((3, 8, 8))


def png(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, 0, 255)).save(path)
    return path


def class_folders(root: Path, classes: int = 3, images: int = 4) -> Path:
    for label in range(classes):
        for index in range(images):
            png(root / f"class{label}" / "deep" / f"{index}.png", 10 * label + index)
    return root


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def everything(batches):
    xs, ys = zip(*batches, strict=True)
    return torch.cat(xs), torch.cat(ys)


def test_class_folders_are_labelled_by_their_sorted_names(tmp_path: Path) -> None:
    batches = images_from_path(class_folders(tmp_path), UNIT, batch_size=5)
    x, y = everything(batches)
    assert batches.labelled
    assert batches.num_samples == 12
    assert y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert (x[:, 0, 0, 0] * 255).round().tolist() == [0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23]
    assert [len(b) for b, _ in batches] == [5, 5, 2]


def test_iterating_twice_gives_the_same(tmp_path: Path) -> None:
    batches = images_from_path(class_folders(tmp_path), SPEC, batch_size=4, limit=7, seed=3)
    (x, y), (again, labels) = everything(batches), everything(batches)
    assert torch.equal(x, again)
    assert torch.equal(y, labels)


def test_every_nth_batch_decodes_no_other(tmp_path: Path) -> None:
    batches = images_from_path(class_folders(tmp_path), SPEC, batch_size=5)
    Path(batches.paths[0]).write_bytes(b"broken")
    ((x, y),) = batches.every(1, 2)
    assert y.tolist() == [batches.labels[index] for index in batches.order[5:10]]
    assert len(x) == 5


def test_normalisation_by_hand(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 51)
    x, y = everything(images_from_path(tmp_path, SPEC))
    expected = torch.tensor([(0.2 - 0.5) / 0.2, (0 - 0.4) / 0.3, (1 - 0.3) / 0.4])
    torch.testing.assert_close(x[0, :, 0, 0], expected)
    assert y.tolist() == [-1]


def test_flat_folder_has_no_labels(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 1)
    (tmp_path / "notes.txt").write_text("no image")
    batches = images_from_path(tmp_path, SPEC)
    assert not batches.labelled
    assert batches.paths == (str(tmp_path / "a.png"),)
    with pytest.raises(DataError, match="has no labels, and accuracy can't be measured"):
        images_from_path(tmp_path, SPEC, require_labels=True)


def test_labels_csv(tmp_path: Path) -> None:
    png(tmp_path / "b.png", 7)
    png(tmp_path / "sub" / "a.png", 9)
    (tmp_path / "labels.csv").write_text("file,label\nb.png,4\nsub/a.png,0\n")
    x, y = everything(images_from_path(tmp_path, UNIT, classes=5, require_labels=True))
    assert y.tolist() == [4, 0]
    assert (x[:, 0, 0, 0] * 255).round().tolist() == [7, 9]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,label\nb.png,4\n", "no column file, its header is name,label; expected the header file,label"),
        ("", "no column file and label"),
        ("file,label\nb.png,cat\n", "line 2: expected a class index from 0 up, got 'cat'"),
        ("file,label\nb.png,-1\n", "line 2: expected a class index from 0 up, got '-1'"),
        (f"file,label\nb.png,{10**9}\n", "line 2: expected a class index from 0 up, got '1000000000'"),
        (f"file,label\nb.png,{'9' * 5000}\n", "line 2: expected a class index from 0 up, got '9{300}…'"),
        ("file,label\nb.png\n", "line 2: expected a class index from 0 up, got ''"),
        ("file,label\ngone.png,1\n", "line 2: there is no file .*gone.png"),
        ("file,label\n", "holds no images"),
        (
            "file,label\nb.png,5\n",
            "expected labels from 0 to 4 .the network has 5 classes., got 5 for .*b.png",
        ),
    ],
)
def test_labels_csv_refusals(tmp_path: Path, text: str, message: str) -> None:
    png(tmp_path / "b.png", 7)
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        images_from_path(tmp_path, UNIT, classes=5)


@pytest.mark.parametrize("labels", [None, np.array([0, 2, 1])])
@pytest.mark.parametrize("channels", [3, 1])
def test_npz(tmp_path: Path, labels: np.ndarray | None, channels: int) -> None:
    shape = (3, 8, 8, 3) if channels == 3 else (3, 8, 8)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    arrays = {"images": images} if labels is None else {"images": images, "labels": labels}
    np.savez(tmp_path / "d.npz", **arrays)
    spec = InputSpec((channels, 8, 8))
    batches = images_from_path(tmp_path / "d.npz", spec, batch_size=2)
    x, y = everything(batches)
    expected = torch.from_numpy(images).reshape(3, 8, 8, channels).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(x, expected)
    assert y.tolist() == ([-1] * 3 if labels is None else [0, 2, 1])
    assert batches.paths[1].endswith("d.npz, image 1")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.zeros(3)}, "no array 'images' .it has x."),
        (
            {"images": np.zeros((2, 8, 8, 3), np.float32)},
            "expected images of uint8, .* got float32 2 x 8 x 8 x 3",
        ),
        (
            {"images": np.zeros((2, 3, 8, 8), np.uint8)},
            "expected images of uint8, .* got uint8 2 x 3 x 8 x 8",
        ),
        ({"images": np.zeros((2, 8), np.uint8)}, "got uint8 2 x 8"),
        ({"images": np.array([{}], object)}, "can't be read as a .npz of plain arrays"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(3, int)}, "expected 2 integer labels"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.zeros(2)}, "got float64 2"),
        ({"images": np.zeros((2, 8, 8), np.uint8), "labels": np.array([0, 9])}, "got 9 for .*image 1"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, "holds no images"),
    ],
)
def test_npz_refusals(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataError, match=message):
        images_from_path(tmp_path / "d.npz", UNIT, classes=4)


def test_a_member_that_is_no_array_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("images", b"not an array")
    with pytest.raises(DataError, match="'images' or 'labels' is no array"):
        images_from_path(tmp_path / "d.npz", UNIT)


def test_an_array_that_asks_for_memory_is_refused(tmp_path: Path) -> None:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (1 << 50, 8, 8)}
    )
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    with pytest.raises(DataError, match=r"d.npz is truncated or damaged: Unable to allocate"):
        images_from_path(tmp_path / "d.npz", UNIT)


def test_single_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, np.zeros((2, 8, 8), np.uint8))
    with pytest.raises(DataError, match=r"no array 'images' .it has no names."):
        images_from_path(tmp_path / "d.npz", UNIT)


def test_truncated_npz_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=np.zeros((9, 8, 8), np.uint8))
    data = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"d.npz"):
        images_from_path(tmp_path / "d.npz", UNIT)


@pytest.mark.parametrize(("height", "width"), [(50, 37), (37, 50), (41, 41), (300, 33), (20, 19)])
@pytest.mark.parametrize(("resize", "crop"), [(24, 24), (32, 24), (23, 16), (37, 37)])
def test_pixels_are_those_of_the_transforms_of_torchvisions_weights(
    height: int, width: int, resize: int, crop: int
) -> None:
    image = noise(height, width)
    theirs = ImageClassification(crop_size=crop, resize_size=resize, mean=SPEC.mean, std=SPEC.std)
    assert torch.equal(pixels_from_image(image, SPEC, resize, crop), theirs(image))


@pytest.mark.parametrize(
    ("resize", "crop"),
    [(None, None), (None, 17), (24, None), (23, 16), (16, 23), ((20, 31), None), ((20, 31), 16)],
)
def test_the_size_is_known_before_the_pixels(resize: Resize | None, crop: int | None) -> None:
    """Also where a crop is larger than the image, which stays as it is."""
    image = noise(50, 37)
    _, height, width = pixels_from_image(image, SPEC, resize, crop).shape
    assert size_after(image.size, resize, crop) == (width, height)


def test_grey_network_reads_colour_images(tmp_path: Path) -> None:
    noise(8, 8).save(tmp_path / "a.png")
    x, _ = everything(images_from_path(tmp_path, InputSpec((1, 8, 8))))
    expected = np.asarray(Image.open(tmp_path / "a.png").convert("L"))
    torch.testing.assert_close(x[0, 0], torch.from_numpy(expected / np.float32(255)))


def test_a_network_that_takes_blue_first_gets_it() -> None:
    image = noise(8, 8)
    rgb = pixels_from_image(image, InputSpec((3, 8, 8), (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)))
    bgr = pixels_from_image(image, InputSpec((3, 8, 8), (0.3, 0.2, 0.1), (4.0, 2.0, 1.0), "bgr"))
    assert torch.equal(bgr, rgb.flip(0))


def test_another_size_says_what_to_add(tmp_path: Path) -> None:
    png(tmp_path / "a.png", 1, (9, 7))
    with pytest.raises(DataError, match=r"a.png is 7x9 after .* takes 8x8; add --resize 8 --crop 8"):
        list(images_from_path(tmp_path, UNIT))
    assert len(list(images_from_path(tmp_path, UNIT, resize=8, crop=8))) == 1
    wide = InputSpec((3, 6, 8))
    with pytest.raises(DataError, match=r"takes 6x8; add --resize 6x8 to stretch images"):
        list(images_from_path(tmp_path, wide))
    ((x, _),) = images_from_path(tmp_path, wide, resize=(6, 8))
    assert x.shape == (1, 3, 6, 8)


def test_images_are_stretched_to_a_height_and_a_width() -> None:
    image = noise(30, 50)
    pixels = pixels_from_image(image, InputSpec((3, 24, 20)), (24, 20))
    stretched = image.resize((20, 24), Image.Resampling.BILINEAR)
    assert torch.equal(pixels, torch.from_numpy(np.array(stretched)).permute(2, 0, 1) / 255)


def test_damaged_image_is_named_when_it_is_reached(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    noise(64, 64).save(buffer, "jpeg")
    (tmp_path / "b.jpg").write_bytes(buffer.getvalue()[:600])
    png(tmp_path / "a.png", 1)
    batches = iter(images_from_path(tmp_path, UNIT, batch_size=1))
    next(batches)
    with pytest.raises(DataError, match=r"b.jpg can't be read as an image .*; repair or remove it"):
        next(batches)


def test_text_with_an_image_suffix_is_named(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_text("hello")
    with pytest.raises(DataError, match=r"b.png can't be read as an image"):
        list(images_from_path(tmp_path, UNIT))


def test_limit_is_even_over_the_classes_and_seeded(tmp_path: Path) -> None:
    root = class_folders(tmp_path, classes=3, images=6)
    first = images_from_path(root, UNIT, limit=9, seed=1)
    assert first.num_samples == 9
    assert torch.bincount(everything(first)[1]).tolist() == [3, 3, 3]
    assert first.paths == images_from_path(root, UNIT, limit=9, seed=1).paths
    assert first.paths != images_from_path(root, UNIT, limit=9, seed=2).paths
    assert images_from_path(root, UNIT, limit=99).num_samples == 18
    with pytest.raises(DataError, match="at least 1 image, got a limit of 0"):
        images_from_path(root, UNIT, limit=0)


def test_limit_of_unlabelled_images_is_a_plain_subset(tmp_path: Path) -> None:
    for index in range(20):
        png(tmp_path / f"{index:02}.png", index)
    assert len(set(images_from_path(tmp_path, UNIT, limit=8).paths)) == 8


def test_class_folders_must_be_complete_where_classes_are_known(tmp_path: Path) -> None:
    root = class_folders(tmp_path)
    with pytest.raises(DataError, match="has 3 class folders, the network has 10 classes"):
        images_from_path(root, UNIT, classes=10)
    assert images_from_path(root, UNIT).num_samples == 12
    with pytest.raises(DataError, match="has 3 class folders, the network has 2 classes"):
        images_from_path(root, UNIT, classes=2)


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    png(class_folders(tmp_path) / "loose.png", 1)
    with pytest.raises(DataError, match=r"class folders and also images beside them .loose.png"):
        images_from_path(tmp_path, UNIT)


def test_wrong_places(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder or file"):
        images_from_path(tmp_path / "gone", UNIT)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images; expected a folder with one folder"):
        images_from_path(tmp_path / "empty", UNIT)
    (tmp_path / "a.tar").write_text("x")
    with pytest.raises(DataError, match=r"is a .tar file"):
        images_from_path(tmp_path / "a.tar", UNIT)
    with pytest.raises(DataError, match="1 or 3 channels, the network takes 4"):
        images_from_path(tmp_path, InputSpec((4, 8, 8)))
