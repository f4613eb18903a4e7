"""Batches as the calibration data of other tools: ONNX Runtime, ModelOpt, NNCF, Polygraphy and PyTorch.

Each takes any ``Batches``: samples of a generator, procedural or real images, or an archive of ``zscgan-samples``
(``batches_from_archive``). Nothing of these tools is imported before it is used.
"""

from collections.abc import Iterator
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from calibrators.data.batches import Batch, Batches, TensorBatches, every
from calibrators.errors import DataError
from zscgan_common.text import first_line, shortened

if TYPE_CHECKING:
    import nncf

Feed = dict[str, NDArray[np.float32]]
"""Input name -> values, [batch, channels, height, width]."""


def batches_from_archive(path: Path | str, *, batch_size: int = 1) -> tuple[str, TensorBatches]:
    """The input's name and its values in an archive of ``zscgan-samples --normalised``.

    Raises DataError for any other file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # of zipfile and NumPy, which have no common base
        raise DataError(f"{path} can't be read as a .npz of plain arrays: {first_line(error)}") from error
    values = next(iter(arrays.values()), None)
    if len(arrays) != 1 or values is None or values.dtype != np.float32 or values.ndim != 4:
        raise DataError(
            f"{path}: expected one array of float32, N x C x H x W, under the name of the network's input, got "
            f"{shortened(', '.join(arrays)) or 'none'}; make one with zscgan-samples MODEL -o FILE.npz --normalised"
        )
    (name,) = arrays
    unknown = torch.full((len(values),), -1)
    return name, TensorBatches(torch.from_numpy(values), unknown, batch_size)


class CalibrationReader:
    """A CalibrationDataReader, as ``onnxruntime.quantization.quantize_static`` and ModelOpt's ``quantize`` take it.

    ``input_name`` is that of the ONNX model. It can be read again after ``rewind``, and iterated.
    """

    def __init__(self, batches: Batches, input_name: str) -> None:
        self.batches, self.input_name = batches, input_name
        self.rewind()

    def get_next(self) -> Feed | None:
        """The next batch, or None behind the last."""
        return next(self._feeds, None)

    def get_first(self) -> Feed:
        """The first batch; the place of ``get_next`` stays. ModelOpt's test run asks for it."""
        return next(iter(feeds(self.batches, self.input_name)))

    def rewind(self) -> None:
        """Begin again with the first batch."""
        self._feeds = feeds(self.batches, self.input_name)

    def __iter__(self) -> Iterator[Feed]:
        return feeds(self.batches, self.input_name)

    def __len__(self) -> int:
        return ceil(self.batches.num_samples / self.batches.batch_size)


def feeds(batches: Batches, input_name: str) -> Iterator[Feed]:
    """What ``InferenceSession.run`` and a data loader of Polygraphy feed: a dictionary a batch."""
    for x, _ in batches:
        yield {input_name: np.ascontiguousarray(x.cpu().numpy(), np.float32)}


def nncf_dataset(batches: Batches, input_name: str | None = None) -> "nncf.Dataset":
    """An ``nncf.Dataset``, for a model of ONNX or OpenVINO whose input is ``input_name``, else for one of PyTorch.

    NNCF asks for a batch of 1 unless told otherwise. Raises ImportError without NNCF.
    """
    import nncf

    def transform(batch: Batch) -> Any:
        return batch[0] if input_name is None else {input_name: batch[0].cpu().numpy()}

    return nncf.Dataset(batches, transform)


class SampleDataset(IterableDataset[tuple[Tensor, int]]):
    """A PyTorch dataset of (input [channels, height, width], label); -1 is an unknown label.

    Each worker of a DataLoader makes its part of the batches.
    """

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return self.batches.num_samples

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        worker = torch.utils.data.get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for x, y in every(self.batches, first, step):
            yield from zip(x, y.tolist(), strict=True)
