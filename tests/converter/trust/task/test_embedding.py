"""Embeddings: only the direction counts."""

import numpy as np
import pytest
import torch

from converter.trust.task.base import Task, agreement_of
from converter.trust.task.embedding import Embedding
from converter.trust.task.heads import divergence
from tests.converter.trust.task.fisher import measured_and_projected


def test_is_a_task_without_labels() -> None:
    task = Embedding(128)
    assert isinstance(task, Task)
    assert (task.classes, task.metric, task.training_logits((torch.zeros(1, 128),))) == (1, None, None)
    assert task.describe() == "vectors of 128 values"
    with pytest.raises(ValueError, match="no accuracy"):
        task.accuracy([], [])


def test_length_does_not_count() -> None:
    fp32 = torch.randn(4, 16, 1, 1, generator=torch.Generator().manual_seed(0))
    task = Embedding(16, index=1)
    heads, longer = (task.heads((torch.zeros(4), factor * fp32)) for factor in (1, 7))
    assert heads[0].kind == "value"
    torch.testing.assert_close(heads[0].values.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(divergence(heads, longer), torch.zeros(4))
    same = agreement_of(task, *(task.answers((np.zeros(4), values.numpy())) for values in (fp32, 7 * fp32)))
    assert same.percent == pytest.approx(100.0)


def test_agreement_is_the_cosine() -> None:
    found = Embedding(2).agreement(np.float32([3, 0]), np.float32([1, 1]))
    assert found == (pytest.approx(0.5**0.5), 1.0)


def test_divergence_is_what_the_projections_say() -> None:
    output = 3 * torch.randn(1, 24, generator=torch.Generator().manual_seed(1))
    measured, projected = measured_and_projected(Embedding(24), output)
    assert projected == pytest.approx(measured, rel=0.1)
