import pytest
import torch

from calibrators.data.input_spec import InputSpec
from calibrators.zscgan.generator import Generator, GeneratorConfig, channels_at, stage_count


def generator_for(shape: tuple[int, int, int], classes: int = 3) -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig(InputSpec(shape, (0.3,), (0.25,)), classes, classes, latent=8, width=8))


@pytest.mark.parametrize(
    ("shape", "classes"),
    [
        ((1, 1, 1), 1),
        ((1, 8, 8), 10),
        ((3, 32, 32), 2),
        ((3, 33, 47), 10),
        ((2, 5, 64), 4),
        ((3, 224, 224), 1000),
    ],
)
def test_samples_have_the_input_shape_and_are_valid_pixels(shape: tuple[int, int, int], classes: int) -> None:
    generator = generator_for(shape, classes)
    x = generator(100 * torch.randn(2, 8), torch.tensor([0, classes - 1]))
    assert x.shape == (2, *shape)
    low, high = torch.tensor(generator.config.spec.low), torch.tensor(generator.config.spec.high)
    assert (x.amin((0, 2, 3)) >= low - 1e-5).all()
    assert (x.amax((0, 2, 3)) <= high + 1e-5).all()


def test_samples_depend_on_the_class_and_the_latent_vector() -> None:
    generator = generator_for((3, 16, 16)).eval()
    z = torch.randn(2, 8)
    a, b = generator(z, torch.tensor([0, 0])), generator(z, torch.tensor([1, 1]))
    assert not torch.allclose(a, b)
    assert not torch.allclose(a[0], a[1])


@pytest.mark.parametrize(("size", "stages"), [(1, 0), (4, 0), (8, 1), (32, 3), (64, 4), (224, 4), (600, 4)])
def test_stages_by_size(size: int, stages: int) -> None:
    assert stage_count(size, size) == stages


def test_narrower_where_the_map_is_larger() -> None:
    assert [channels_at(height, 32) for height in (4, 14, 32, 64, 112, 224)] == [128, 128, 64, 32, 18, 16]
