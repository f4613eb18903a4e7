"""Batches as other tools read them; the tools themselves are in ``tests/test_other_tools.py``."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from calibrators.data.batches import TensorBatches, random_pixels
from calibrators.data.export import write_inputs
from calibrators.data.input_spec import InputSpec
from calibrators.data.procedural import ProceduralBatches
from calibrators.data.readers import CalibrationReader, SampleDataset, batches_from_archive, feeds
from calibrators.errors import DataError

SPEC = InputSpec((3, 4, 4))
FIVE = TensorBatches(random_pixels(SPEC, 5, 0), torch.arange(5), 2)


def test_a_reader_ends_and_begins_again() -> None:
    reader = CalibrationReader(FIVE, "pixels")
    sizes = []
    while (feed := reader.get_next()) is not None:
        sizes.append(feed["pixels"].shape[0])
    assert (sizes, len(reader), reader.get_next()) == ([2, 2, 1], 3, None)
    reader.rewind()
    first = reader.get_next()
    assert first is not None
    assert np.array_equal(first["pixels"], FIVE.x[:2].numpy())
    assert np.array_equal(reader.get_first()["pixels"], first["pixels"])
    second = reader.get_next()  # get_first has not moved it
    assert second is not None
    assert np.array_equal(second["pixels"], FIVE.x[2:4].numpy())
    assert len(list(reader)) == 3


def test_feeds_are_float32_and_contiguous() -> None:
    (feed, *_) = feeds(FIVE, "x")
    assert (feed["x"].dtype, feed["x"].flags.c_contiguous) == (np.float32, True)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_sample_comes_once_from_a_loader(workers: int) -> None:
    batches = ProceduralBatches(InputSpec((3, 8, 8)), 6, 2, 0)
    loader = DataLoader(SampleDataset(batches), batch_size=2, num_workers=workers)
    found = torch.cat([x for x, _ in loader])
    made = torch.cat([x for x, _ in batches])
    assert sorted(found.sum((1, 2, 3)).tolist()) == sorted(made.sum((1, 2, 3)).tolist())


def test_an_archive_is_read_back(tmp_path: Path) -> None:
    write_inputs(FIVE, SPEC, "pixels", tmp_path / "a.npz", lambda _: None)
    name, batches = batches_from_archive(tmp_path / "a.npz", batch_size=4)
    assert (name, batches.batch_size) == ("pixels", 4)
    assert torch.equal(batches.x, FIVE.x)


def test_other_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "images.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.zeros(2, int))
    with pytest.raises(DataError, match=r"expected one array of float32.* got images, labels;.*--normalised"):
        batches_from_archive(tmp_path / "images.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(DataError, match="can't be read"):
        batches_from_archive(tmp_path / "text.npz")
