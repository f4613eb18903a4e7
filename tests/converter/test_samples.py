"""Where inputs come from: the same calls give the same ones, and ranks share a batch."""

import pytest
import torch
from torch import nn

from calibrators.data.batches import every
from calibrators.data.input_spec import InputSpec
from calibrators.distributed import Ranks
from calibrators.zscgan.guidance import Guide
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import TrainedGenerator
from calibrators.zscgan.successive import new_ensemble
from converter.samples import (
    BothSamples,
    GeneratorSamples,
    ProceduralSamples,
    SampleKind,
    SampleSource,
    kind_of_samples,
)

SPEC, CPU = InputSpec((3, 16, 16), (0.5,) * 3, (0.25,) * 3), torch.device("cpu")


def generator(seed: int = 0) -> GeneratorSamples:
    options = ZSCGANOptions(latent=8, width=4, seed=seed)
    return GeneratorSamples(TrainedGenerator(new_ensemble(SPEC, 10, options, CPU).ensemble, "", (), 0.0))


def guided() -> GeneratorSamples:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    )
    return GeneratorSamples(generator().trained, Guide(network.eval(), SPEC, ZSCGANOptions()))


every_source = pytest.mark.parametrize(
    "source",
    [
        generator(),
        guided(),
        ProceduralSamples(SPEC, CPU),
        BothSamples(generator(), ProceduralSamples(SPEC, CPU)),
    ],
    ids=["zscgan", "guided", "procedural", "both"],
)


def all_of(source: SampleSource, count: int, batch_size: int, seed: int) -> torch.Tensor:
    return torch.cat([x for x, _ in source.batches(count, batch_size, seed)])


@every_source
def test_the_same_calls_give_the_same_inputs(source: SampleSource) -> None:
    first, again, other = (all_of(source, 10, 4, seed) for seed in (3, 3, 4))
    assert first.shape == (10, *SPEC.shape)
    assert torch.equal(first, again)
    assert not any(torch.equal(one, two) for one in first for two in other)
    batches = source.batches(10, 4, 3)
    assert (batches.num_samples, batches.batch_size) == (10, 4)
    assert sum(len(x) for x, _ in batches) == 10
    assert max(len(x) for x, _ in batches) == 4


@every_source
def test_inputs_are_pixels(source: SampleSource) -> None:
    x = torch.cat([all_of(source, 6, 3, 0), source.drawn(4, 0, 5)[0]])
    assert x.dtype == torch.float32
    assert x.min() >= min(SPEC.low) - 1e-6
    assert x.max() <= max(SPEC.high) + 1e-6
    assert not x.requires_grad
    assert float(x.std()) > 0.01


@every_source
def test_what_is_drawn_is_fresh_at_each_place_and_the_same_again(source: SampleSource) -> None:
    (one, labels), (again, _) = source.drawn(4, 0, 7), source.drawn(4, 0, 7)
    assert one.shape == (4, *SPEC.shape)
    assert labels.shape == (4,)
    assert torch.equal(one, again)
    for others in (source.drawn(4, 0, 8), source.drawn(4, 1, 7)):
        assert not any(torch.equal(a, b) for a in one for b in others[0])


@every_source
def test_ranks_draw_the_parts_of_one_batch(source: SampleSource) -> None:
    whole, labels = source.drawn(6, 2, 9)
    parts = [source.drawn(6, 2, 9, Ranks(rank, 2)) for rank in (0, 1)]
    assert [len(x) for x, _ in parts] == [3, 3]
    torch.testing.assert_close(torch.cat([x for x, _ in parts]), whole)
    assert torch.equal(torch.cat([y for _, y in parts]), labels)


def test_the_key_is_that_of_the_inputs() -> None:
    assert generator().key == generator().key != generator(seed=1).key
    one, other = ProceduralSamples(SPEC, CPU), ProceduralSamples(InputSpec((3, 16, 16)), CPU)
    assert one.key == ProceduralSamples(SPEC, CPU).key != other.key
    assert {generator().name, one.name} == {"zscgan", "procedural"}


@pytest.mark.parametrize(
    ("asked", "bn_layers", "reused", "kind"),
    [
        ("auto", 20, False, "both"),
        ("auto", 0, False, "procedural"),
        ("auto", 0, True, "both"),
        ("both", 20, False, "both"),
        ("zscgan", 20, False, "generator"),
        ("procedural", 20, False, "procedural"),
    ],
)
def test_what_is_asked_for_says_what_samples_are(
    asked: str, bn_layers: int, *, reused: bool, kind: SampleKind
) -> None:
    assert kind_of_samples(asked, bn_layers=bn_layers, reused=reused) == kind


@pytest.mark.parametrize(("count", "batch"), [(9, 4), (16, 4), (17, 4), (2, 4), (1, 4), (9, 3)])
def test_both_are_half_and_half(count: int, batch: int) -> None:
    """Each batch is half of each, and all but the last are of one size."""
    one, other = generator(), ProceduralSamples(SPEC, CPU)
    made, half = BothSamples(one, other).batches(count, batch, 0), batch // 2
    batches = [x for x, _ in made]
    assert made.num_samples == sum(map(len, batches)) == count
    if count > 1:
        assert {len(x) for x in batches[:-1]} <= {made.batch_size}
    first, second = -(-count // 2), count // 2
    halves = [(len(x) + 1) // 2 for x in batches]
    generated = torch.cat([x[:n] for x, n in zip(batches, halves, strict=True)])
    assert torch.equal(generated, all_of(one, first, half, 0))
    if second:
        procedural = torch.cat([x[n:] for x, n in zip(batches, halves, strict=True)])
        assert torch.equal(procedural, all_of(other, second, half, 0))


def test_batches_of_both_are_made_alone() -> None:
    made = BothSamples(generator(), ProceduralSamples(SPEC, CPU)).batches(17, 4, 0)
    shares = [list(every(made, rank, 2)) for rank in (0, 1)]
    for place, (x, labels) in enumerate(made):
        ours, theirs = shares[place % 2][place // 2]
        assert torch.equal(x, ours)
        assert torch.equal(labels, theirs)
