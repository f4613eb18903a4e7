"""The inputs of the fine-tuning: fresh in every step, the same for the same seed, and never the held-out ones."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from calibrators.data.images import images_from_path
from calibrators.data.input_spec import InputSpec
from calibrators.distributed import Ranks
from calibrators.errors import DataError
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import TrainedGenerator
from calibrators.zscgan.successive import new_ensemble
from converter.qat.data import Images, Samples, mixed, require_enough
from converter.samples import GeneratorSamples
from converter.trust.prediction import inputs_for

SPEC = InputSpec((1, 8, 8))
CPU = torch.device("cpu")


def some_samples(seed: int = 0) -> Samples:
    options = ZSCGANOptions(latent=8, width=4)
    trained = TrainedGenerator(new_ensemble(SPEC, 10, options, CPU).ensemble, "", (), 0.0)
    return Samples(GeneratorSamples(trained), 8, seed)


def some_images(folder: Path, count: int = 50, batch: int = 8) -> Images:
    """Images each of one brightness, its number."""
    pixels = np.arange(count, dtype=np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
    np.savez(folder / "images.npz", images=pixels)
    return Images(images_from_path(folder / "images.npz", SPEC), batch, 0, CPU)


def numbers(x: Tensor) -> list[int]:
    return (x[:, 0, 0, 0] * 255).round().int().tolist()


def test_mixing_by_hand() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 5.0]).view(4, 1, 1, 1)
    ratios = torch.tensor([0.1, 0.25, 0.1, 0.5])
    assert mixed(x, ratios).flatten().tolist() == [1.0, 1.25, 3.0, 4.0]


def test_samples_are_fresh_in_every_step_and_the_same_again() -> None:
    source = some_samples()
    first, second = source.inputs(0)[0], source.inputs(1)[0]
    assert torch.equal(first, source.inputs(0)[0])
    assert not torch.equal(first, second)
    assert not torch.equal(first, some_samples(seed=1).inputs(0)[0])
    held = [x for x, _ in source.held_out()]
    assert sum(map(len, held)) == inputs_for(source.batch)
    assert not any(torch.equal(x, first) for x in held)
    assert first.min() >= 0
    assert first.max() <= 1
    assert not first.requires_grad


def test_ranks_have_the_samples_of_one_process() -> None:
    source = some_samples()
    for (whole, labels), parts in (
        (source.inputs(3), [source.inputs(3, Ranks(rank, 2)) for rank in (0, 1)]),
        (next(source.held_out()), [next(source.held_out(Ranks(rank, 2))) for rank in (0, 1)]),
    ):
        torch.testing.assert_close(torch.cat([x for x, _ in parts]), whole)
        assert torch.equal(torch.cat([part for _, part in parts]), labels)


def test_images_come_once_in_each_pass_and_a_fifth_never(tmp_path: Path) -> None:
    source = some_images(tmp_path)
    held = [number for x, _ in source.held_out() for number in numbers(x)]
    assert len(set(held)) == len(held) == 10
    seen = [number for step in range(10) for number in numbers(source.inputs(step)[0])]
    assert sorted(seen[:40]) == sorted(seen[40:]) == sorted(set(range(50)) - set(held))
    assert seen[:40] != seen[40:]
    assert numbers(source.inputs(3)[0]) == seen[24:32]


def test_a_batch_may_hold_more_than_a_pass(tmp_path: Path) -> None:
    source = some_images(tmp_path, count=20, batch=40)
    found = numbers(source.inputs(0)[0])
    assert len(found) == 40
    assert len(set(found)) == 16


def test_ranks_have_the_images_of_one_process(tmp_path: Path) -> None:
    source = some_images(tmp_path)
    parts = [numbers(source.inputs(5, Ranks(rank, 2))[0]) for rank in (0, 1)]
    assert parts[0] + parts[1] == numbers(source.inputs(5)[0])
    held = [number for rank in (0, 1) for x, _ in source.held_out(Ranks(rank, 2)) for number in numbers(x)]
    assert sorted(held) == sorted(number for x, _ in source.held_out() for number in numbers(x))


def test_the_seed_decides_the_order(tmp_path: Path) -> None:
    source = some_images(tmp_path)
    assert numbers(source.inputs(0)[0]) != numbers(replace(source, seed=1).inputs(0)[0])


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 20 images to fine-tune with, got 19; give --qat-data more"):
        require_enough(some_images(tmp_path, count=19).images)
    require_enough(some_images(tmp_path, count=20).images)
