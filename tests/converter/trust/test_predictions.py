import numpy as np
import torch

from calibrators.data.batches import TensorBatches
from converter.trust.predictions import chosen_classes, in_parts, predictions


def one_hot(batch: np.ndarray) -> np.ndarray:
    """Chooses the class that the input names."""
    return np.eye(3, dtype=np.float32)[batch[:, 0, 0, 0].astype(int)]


def never_one(batch: np.ndarray) -> np.ndarray:
    """The same, but for class 1, which it takes for 2."""
    return one_hot(np.where(batch == 1, np.float32(2), batch))


def test_counts_by_hand() -> None:
    x = torch.tensor([0.0, 1.0, 2.0, 1.0]).view(4, 1, 1, 1)
    batches = TensorBatches(x, torch.tensor([0, 1, 0, 2]), batch_size=3)
    done: list[int] = []
    fp32, int8 = predictions(one_hot, batches, done.append), predictions(never_one, batches)
    assert fp32.chosen.tolist() == [0, 1, 2, 1]
    assert int8.chosen.tolist() == [0, 2, 2, 2]
    assert (fp32.top1, int8.top1, fp32.agreement(int8)) == (50.0, 50.0, 50.0)
    assert done == [3, 4]


def test_a_single_logit_decides_by_its_sign() -> None:
    assert chosen_classes(np.float32([[-1.0], [2.0]])).tolist() == [0, 1]


def test_a_network_with_bounded_batches_gets_parts_that_fit() -> None:
    sizes: list[int] = []

    def bounded(x: np.ndarray) -> np.ndarray:
        sizes.append(len(x))
        return x.reshape(len(x), -1)

    x = np.arange(9, dtype=np.float32).reshape(9, 1, 1, 1)
    assert in_parts(bounded, 2, 4)(x)[:, 0].tolist() == list(range(9))
    assert sizes == [4, 4, 2]
