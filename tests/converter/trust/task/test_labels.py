"""Independent labels: their heads, the same labels, and F1 by hand."""

import numpy as np
import pytest
import torch

from converter.trust.task.base import Task, agreement_of
from converter.trust.task.labels import Labels
from tests.converter.trust.task.fisher import measured_and_projected


def test_is_a_task_with_labels() -> None:
    assert isinstance(Labels(7), Task)
    assert (Labels(7).classes, Labels(7).metric) == (7, "micro-F1")
    assert Labels(7, one_known=True).metric == "known label found"
    assert Labels(7).describe() == "7 independent labels behind a sigmoid"
    assert Labels(1, "logits").describe() == "1 independent label"


def test_heads_and_training_look_through_the_sigmoid() -> None:
    logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    task = Labels(5, index=1)
    (head,) = task.heads((torch.zeros(3), logits.sigmoid().reshape(3, 5, 1, 1)))
    assert head.kind == "binary"
    torch.testing.assert_close(head.values, logits)
    torch.testing.assert_close(task.training_logits((torch.zeros(3), logits.sigmoid())), logits)
    assert task.decision_logits((np.zeros(3), logits.numpy())) is None


def test_answers_are_the_probable_labels() -> None:
    logits = np.float32([[1, -1, 0], [-2, 3, 4]])
    expected = [[True, False, False], [False, True, True]]
    assert np.stack(Labels(3, "logits").answers((logits,))).tolist() == expected
    assert np.stack(Labels(3).answers((1 / (1 + np.exp(-logits)),))).tolist() == expected


def test_agreement_counts_exactly_the_same_labels() -> None:
    task = Labels(2)
    fp32 = list(np.array([[1, 0], [1, 0], [0, 0], [1, 1]], bool))
    int8 = list(np.array([[1, 0], [1, 1], [0, 0], [0, 1]], bool))
    assert agreement_of(task, fp32, int8).percent == 50.0


def test_accuracy_by_hand() -> None:
    answers = list(np.array([[1, 1, 0], [0, 0, 1]], bool))
    # set and true: 0 and 2; set: 3; true: 3
    expected = 100 * 2 * 2 / (3 + 3)
    assert Labels(3).accuracy(answers, [{0}, [1, 2]]) == pytest.approx(expected)
    vectors = list(np.array([[1, 0, 0], [0, 1, 1]], bool))
    assert Labels(3).accuracy(answers, vectors) == pytest.approx(expected)


def test_of_one_known_label_others_count_neither_way() -> None:
    answers = list(np.array([[1, 1, 0], [0, 0, 1], [1, 0, 0]], bool))
    assert Labels(3, one_known=True).accuracy(answers, [1, 0, 0]) == pytest.approx(200 / 3)


@pytest.mark.parametrize("final", ["logits", "sigmoid"])
def test_divergence_is_what_the_projections_say(final: str) -> None:
    output = torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
    measured, projected = measured_and_projected(
        Labels(12, final), output.sigmoid() if final == "sigmoid" else output
    )
    assert projected == pytest.approx(measured, rel=0.1)
