from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from calibrators.data.input_spec import InputSpec
from calibrators.errors import GeneratorError
from calibrators.zscgan.ensemble import Ensemble
from calibrators.zscgan.generator import Generator, GeneratorConfig
from calibrators.zscgan.guidance import Guide
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.quality import sample_quality
from calibrators.zscgan.sample_sheet import (
    GAP,
    GUIDED_ROWS,
    HEADER,
    ROWS,
    save_picture,
    shown_classes,
    tile_from_sample,
)
from calibrators.zscgan.sampling import (
    SyntheticBatches,
    TrainedGenerator,
    load_generator,
    load_torch,
    save_generator,
)

CPU = torch.device("cpu")


@pytest.fixture
def generator(spec: InputSpec) -> Ensemble:
    torch.manual_seed(0)
    ensemble = Ensemble(Generator(GeneratorConfig(spec, 4, latent=8, width=8)) for _ in range(2)).eval()
    return ensemble.to(memory_format=torch.channels_last)  # as training gives it


def everything(batches: SyntheticBatches) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = zip(*batches, strict=True)
    return torch.cat(x), torch.cat(y)


def test_batches_come_out_the_same_again(generator: Ensemble) -> None:
    batches = SyntheticBatches(generator, 10, 4, seed=3)
    assert [len(x) for x, _ in batches] == [4, 4, 2]
    (x, y), (again, same) = everything(batches), everything(batches)
    assert torch.equal(x, again)
    assert torch.equal(y, same)


def test_samples_do_not_depend_on_the_batch_size(generator: Ensemble) -> None:
    x, y = everything(SyntheticBatches(generator, 10, 10, seed=3))
    others, same = everything(SyntheticBatches(generator, 10, 3, seed=3))
    assert torch.equal(y, same)
    # convolutions of other batch sizes may add up in another order
    torch.testing.assert_close(x, others, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "step", "which"), [(0, 1, [0, 1, 2]), (1, 2, [1]), (0, 2, [0, 2]), (3, 4, [])]
)
def test_every_nth_batch(generator: Ensemble, first: int, step: int, which: list[int]) -> None:
    batches = SyntheticBatches(generator, 10, 4, seed=3)
    whole = list(batches)
    some = list(batches.every(first, step))
    assert len(some) == len(which)
    for (x, y), index in zip(some, which, strict=True):
        assert torch.equal(x, whole[index][0])
        assert torch.equal(y, whole[index][1])


def test_other_seeds_give_other_samples(generator: Ensemble) -> None:
    assert not torch.equal(
        everything(SyntheticBatches(generator, 4, 4, seed=0))[0],
        everything(SyntheticBatches(generator, 4, 4, seed=1))[0],
    )


def test_a_saved_generator_gives_the_same_samples(
    generator: Ensemble, spec: InputSpec, tmp_path: Path
) -> None:
    path = save_generator(
        TrainedGenerator(generator, "abc", ((1, 0.5, 0.25),), 2.5), tmp_path / "generator.pt"
    )
    loaded = load_generator(path, fingerprint="abc", spec=spec, device=CPU)
    assert (loaded.history, loaded.seconds) == (((1, 0.5, 0.25),), 2.5)
    ours, theirs = (everything(SyntheticBatches(g, 4, 4, seed=0))[0] for g in (loaded.generator, generator))
    assert torch.equal(ours, theirs)


def test_a_generator_of_another_model_is_refused(
    generator: Ensemble, spec: InputSpec, tmp_path: Path
) -> None:
    path = save_generator(TrainedGenerator(generator, "abc", (), 0.0), tmp_path / "generator.pt")
    with pytest.raises(GeneratorError, match="trained for another"):
        load_generator(path, fingerprint="xyz", spec=spec, device=CPU)
    with pytest.raises(GeneratorError, match="--input-shape"):
        load_generator(path, fingerprint="abc", spec=InputSpec((3, 9, 9)), device=CPU)


@pytest.mark.parametrize("content", [b"", b"noise", None])
def test_what_is_no_generator_is_refused(content: bytes | None, spec: InputSpec, tmp_path: Path) -> None:
    path = tmp_path / "generator.pt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(GeneratorError, match="--generator"):
        load_generator(path, fingerprint="abc", spec=spec, device=CPU)


def test_a_generator_of_another_version_is_refused(
    generator: Ensemble, spec: InputSpec, tmp_path: Path
) -> None:
    path = save_generator(TrainedGenerator(generator, "abc", (), 0.0), tmp_path / "generator.pt")
    torch.save(load_torch(path) | {"version": 1}, path)
    with pytest.raises(
        GeneratorError, match=r"it is of format 1, which another version .* leave --generator out"
    ):
        load_generator(path, fingerprint="abc", spec=spec, device=CPU)


@pytest.mark.parametrize(
    "change",
    [
        {"generators": 2**40},
        {"generators": 0},
        {"generators": 1},
        {"seconds": "soon"},
        {"history": [(0, 1.0)]},
        {"history": None},
        {"weights": None},
        {"weights": {"members.0.linear.weight": torch.ones(3)}},
    ],
)
def test_a_damaged_generator_is_refused(
    change: dict[str, object], generator: Ensemble, spec: InputSpec, tmp_path: Path
) -> None:
    path = save_generator(TrainedGenerator(generator, "abc", (), 0.0), tmp_path / "generator.pt")
    torch.save(load_torch(path) | change, path)
    with pytest.raises(GeneratorError, match="a whole generator of this version, but it is not"):
        load_generator(path, fingerprint="abc", spec=spec, device=CPU)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_generator_whose_weights_are_not_finite_is_refused(
    value: float, generator: Ensemble, spec: InputSpec, tmp_path: Path
) -> None:
    next(generator.parameters()).data.view(-1)[0] = value
    path = save_generator(TrainedGenerator(generator, "abc", (), 0.0), tmp_path / "generator.pt")
    with pytest.raises(GeneratorError, match="values that are not finite"):
        load_generator(path, fingerprint="abc", spec=spec, device=CPU)


@pytest.mark.parametrize("change", [{"classes": 2**40}, {"latent": 2**40}, {"width": 2**40}, {"classes": 0}])
def test_a_generator_that_asks_for_memory_is_refused(
    change: dict[str, int], generator: Ensemble, spec: InputSpec, tmp_path: Path
) -> None:
    path = save_generator(TrainedGenerator(generator, "abc", (), 0.0), tmp_path / "generator.pt")
    document = load_torch(path)
    torch.save(document | {"config": document["config"] | change}, path)
    with pytest.raises(GeneratorError, match="leave --generator out to train one"):
        load_generator(path, fingerprint="abc", spec=spec, device=CPU)


@pytest.mark.parametrize("document", [{"weights": {}}, [1, 2]])
def test_other_checkpoints_are_refused(document: object, spec: InputSpec, tmp_path: Path) -> None:
    torch.save(document, tmp_path / "generator.pt")
    with pytest.raises(GeneratorError, match="that zscgan-convert saved"):
        load_generator(tmp_path / "generator.pt", fingerprint="abc", spec=spec, device=CPU)


def test_the_picture_has_a_column_a_class(generator: Ensemble, tmp_path: Path) -> None:
    names = ["a", "b", "a name that is far too long for its column", "d"]
    with Image.open(save_picture(generator, tmp_path / "samples.png", seed=0, class_names=names)) as picture:
        assert picture.size == (4 * (64 + GAP) + GAP, HEADER + ROWS * (64 + GAP) + GAP)


def test_the_picture_of_guided_samples_shows_the_first_each_with_its_class(
    generator: Ensemble, teacher: nn.Module, spec: InputSpec, tmp_path: Path
) -> None:
    guide = Guide(teacher, spec, ZSCGANOptions(guide_steps=1))
    with Image.open(save_picture(generator, tmp_path / "samples.png", seed=0, guide=guide)) as picture:
        assert picture.size == (10 * (64 + GAP) + GAP, GUIDED_ROWS * (HEADER + 64 + GAP) + GAP)
        last = picture.crop(
            (picture.width - 64 - GAP, picture.height - 64 - GAP, picture.width - GAP, picture.height - GAP)
        )
    x, labels = next(iter(SyntheticBatches(generator, 30, 30, 0, guide)))
    assert last.tobytes() == tile_from_sample(x[-1], spec).tobytes()
    assert shown_classes(generator, 0, guide) == labels.tolist()


@pytest.mark.parametrize(("channels", "classes", "columns"), [(1, 1, 10), (2, 3, 3), (5, 1000, 10)])
def test_pictures_of_any_channels_and_classes(
    channels: int, classes: int, columns: int, tmp_path: Path
) -> None:
    config = GeneratorConfig(InputSpec((channels, 64, 64)), classes, latent=4, width=8)
    generator = Ensemble([Generator(config)])
    with Image.open(save_picture(generator, tmp_path / "samples.png", seed=0)) as picture:
        assert picture.width == columns * (64 + GAP) + GAP
    shown = shown_classes(generator)
    assert len(shown) == min(columns, classes)
    assert (shown[0], shown[-1]) == (0, classes - 1)


def test_quality_of_the_teachers_own_data_is_good(teacher: nn.Module) -> None:
    class Real:
        num_samples, batch_size = 512, 64

        def __iter__(self):
            random = torch.Generator().manual_seed(1)
            for _ in range(8):
                x = torch.rand(64, 3, 8, 8, generator=random)
                yield x, teacher(x).argmax(1)

    quality = sample_quality(teacher, Real())
    assert quality.label_accuracy == 100.0
    assert quality.bn_kl < 0.02
