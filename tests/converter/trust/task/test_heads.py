"""Divergences, distillation and directions of the three kinds of heads, against float64 references and by hand."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from converter.trust.task.heads import (
    Head,
    deviation,
    direction,
    distillation_loss,
    divergence,
    projection,
    softened_divergence,
    spread,
)

SHAPES = [(4, 5), (4, 5, 3), (4, 2, 3, 2)]


def drawn(*shape: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def expected_nats(kind: str, a: Tensor, b: Tensor) -> Tensor:
    """Nats of each input and position, by torch.distributions."""
    if kind == "categorical":
        one, other = (Categorical(logits=values.movedim(1, -1)) for values in (a, b))
        return kl_divergence(one, other)
    if kind == "binary":
        return kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b)).sum(1)
    width = a.std(correction=0)
    return kl_divergence(Normal(a, width), Normal(b, width)).sum(1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["categorical", "binary", "value"])
def test_divergence_is_that_of_the_distributions(kind: str, shape: tuple[int, ...]) -> None:
    a, b = drawn(*shape), drawn(*shape, seed=1)
    nats = expected_nats(kind, a, b)
    expected = nats.reshape(len(a), -1).mean(1)
    found = divergence([Head(kind, a)], [Head(kind, b)])  # type: ignore[arg-type]
    torch.testing.assert_close(found, expected)
    assert not divergence([Head(kind, a)], [Head(kind, a)]).any()  # type: ignore[arg-type]
    assert not softened_divergence([Head(kind, a)], [Head(kind, a)]).any()  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["categorical", "binary", "value"])
def test_divergence_is_the_sum_over_heads_of_weighted_positions(kind: str) -> None:
    a, b = drawn(2, 3, 4), drawn(2, 3, 4, seed=1)
    weights = torch.tensor([[0.0, 1.0, 0.5, 0.0], [0.0, 0.0, 0.0, 2.0]], dtype=torch.float64)
    others = torch.rand(2, 4, dtype=torch.float64)
    heads = [Head(kind, a, weights), Head("binary", a)], [Head(kind, b, others), Head("binary", b)]  # type: ignore[arg-type]
    if kind == "value":
        counted = weights.unsqueeze(1).expand_as(a)
        mean = np.average(a.numpy(), weights=counted.numpy())
        variance = np.average((a.numpy() - mean) ** 2, weights=counted.numpy())
        nats = ((b - a) ** 2).sum(1) / (2 * variance)
    else:
        nats = expected_nats(kind, a, b)
    expected = (nats * weights).mean(1) + expected_nats("binary", a, b).mean(1)
    torch.testing.assert_close(divergence(*heads), expected)


def test_divergence_by_hand() -> None:
    p = torch.tensor([[0.5, 0.5], [1.0 - 1e-12, 1e-12]], dtype=torch.float64).log()
    q = torch.tensor([[0.25, 0.75], [1.0 - 1e-12, 1e-12]], dtype=torch.float64).log()
    found = divergence([Head("categorical", p)], [Head("categorical", q)])
    assert found.tolist() == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0])


def test_sure_answers_are_no_nan() -> None:
    for kind in ("categorical", "binary"):
        a, b = torch.tensor([[900.0, -900.0]]), torch.tensor([[-900.0, 900.0]])
        assert torch.isfinite(divergence([Head(kind, a)], [Head(kind, b)])).all()  # type: ignore[arg-type]
    constant = [Head("value", torch.ones(2, 1, 3))]
    assert divergence(constant, constant).tolist() == [0.0, 0.0]


def test_softened_divergence_by_hand() -> None:
    fp32 = torch.tensor([[4.0, 0.0], [0.0, 4.0]], dtype=torch.float64)
    int8 = torch.tensor([[4.0, 2.0], [0.0, 4.0]], dtype=torch.float64)
    p, q = np.exp([2.0, 0.0]), np.exp([2.0, 1.0])  # the deviation of 4 and 0 is 2
    p, q = p / p.sum(), q / q.sum()
    found = softened_divergence([Head("categorical", fp32)], [Head("categorical", int8)])
    assert found.tolist() == pytest.approx([(p * np.log(p / q)).sum(), 0.0])
    hard = softened_divergence([Head("categorical", fp32, soft=False)], [Head("categorical", int8)])
    torch.testing.assert_close(hard, divergence([Head("categorical", fp32)], [Head("categorical", int8)]))


def test_the_softened_divergence_of_independent_logits() -> None:
    a, b = drawn(3, 4), drawn(3, 4, seed=1)
    t = float(np.mean([np.std(row) for row in a.numpy()]))
    p, q = (1 / (1 + np.exp(-values.numpy() / t)) for values in (a, b))
    expected = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    found = softened_divergence([Head("binary", a)], [Head("binary", b)])
    assert found.tolist() == pytest.approx(expected.tolist())
    assert spread(Head("binary", a)) == pytest.approx(t)
    assert spread(Head("value", a)) == 1.0


def test_sure_inputs_count_too() -> None:
    """At a temperature of 1 nothing is left of an error in a sure input."""
    fp32 = torch.tensor([[60.0, 0.0, 0.0], [1.0, 0.0, 0.0]], dtype=torch.float64).repeat_interleave(50, 0)
    one, other = [Head("categorical", fp32)], [Head("categorical", fp32 + torch.tensor([0.0, 3.0, 0.0]))]
    sure, doubtful = softened_divergence(one, other).split(50)
    assert sure.mean() > doubtful.mean() / 100
    hard = divergence(one, other)
    assert hard[:50].mean() < 1e-9 * hard[50:].mean()


@pytest.mark.parametrize("kind", ["categorical", "binary", "value"])
def test_the_softened_divergence_does_not_hang_on_the_scale(kind: str) -> None:
    fp32 = drawn(20, 7)
    int8 = fp32 + drawn(20, 7, seed=1, scale=0.1)
    found, scaled = (
        softened_divergence([Head(kind, factor * fp32)], [Head(kind, factor * int8)])  # type: ignore[arg-type]
        for factor in (1, 100)
    )
    torch.testing.assert_close(found, scaled)


def test_distillation_by_hand() -> None:
    teacher = torch.log(torch.tensor([[0.5, 0.5], [0.8, 0.2]]))
    student = torch.log(torch.tensor([[0.25, 0.75], [0.8, 0.2]]))
    expected = (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)) / 2

    def loss(student: Tensor, teacher: Tensor, temperature: float) -> float:
        heads = [Head("categorical", student)], [Head("categorical", teacher)]
        return distillation_loss(*heads, temperature).item()

    assert loss(student, teacher, 1.0) == pytest.approx(expected, rel=1e-5)
    assert loss(3 * student, 3 * teacher, 3.0) == pytest.approx(9 * expected, rel=1e-5)
    assert loss(teacher + 5, teacher, 4.0) == pytest.approx(0, abs=1e-6)


def test_distillation_sums_the_heads_and_leaves_values_at_a_temperature_of_one() -> None:
    logits, values = [(drawn(3, 4, seed=seed), drawn(3, 2, 5, seed=seed + 7)) for seed in (0, 1)]
    teacher, student = ([Head("binary", a), Head("value", b)] for a, b in (logits, values))
    t = 4.0
    binary = t**2 * expected_nats("binary", logits[0] / t, values[0] / t).mean()
    mean = expected_nats("value", logits[1], values[1]).mean()
    assert distillation_loss(student, teacher, t).item() == pytest.approx(float(binary + mean))


@pytest.mark.parametrize("kind", ["categorical", "binary", "value"])
def test_the_gradient_of_the_distillation_is_zero_at_the_teacher(kind: str) -> None:
    teacher = drawn(3, 4, 2)
    student = teacher.clone().requires_grad_()
    distillation_loss([Head(kind, student)], [Head(kind, teacher)], 2.0).backward()  # type: ignore[arg-type]
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-12


@pytest.mark.parametrize(
    "logits", [[0.3, -1.0, 2.0, 0.1], [30.0, 0.0, -5.0, 1.0], [0.0, -2000.0, 0.0, -2000.0]]
)
def test_covariance_of_the_direction_is_the_fisher_information(logits: list[float]) -> None:
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)))
    v = direction(torch.tensor(logits, dtype=torch.float64).expand(16, 4), signs.double())
    p = torch.tensor(logits, dtype=torch.float64).softmax(0)
    torch.testing.assert_close(v.mean(0), torch.zeros(4).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(v.T @ v / 16, p.diag() - p.outer(p), atol=1e-12, rtol=1e-9)


def test_direction_of_two_classes_is_exact_for_every_sign() -> None:
    logits = torch.tensor([[2.0, -1.0], [0.0, 9.0]])
    p = logits.softmax(1)[:, 0]
    for signs in itertools.product([-1.0, 1.0], repeat=2):
        v = direction(logits, torch.tensor([signs, signs]))
        torch.testing.assert_close(v[:, 0] ** 2, p * (1 - p))
        torch.testing.assert_close(v[:, 0], -v[:, 1])


def directions(head: Head, draws: int) -> Tensor:
    """Gradients of so many projections: a row a draw."""
    random, found = torch.Generator().manual_seed(0), []
    for _ in range(draws):
        values = head.values.detach().requires_grad_()
        projected = projection([Head(head.kind, values, head.weights)], random)
        (gradient,) = torch.autograd.grad(projected, values)
        found.append(gradient.flatten())
    return torch.stack(found)


def fisher(head: Head) -> Tensor:
    """The Hessian of the divergence at its minimum, summed over the batch."""

    def total(flat: Tensor) -> Tensor:
        return divergence([head], [Head(head.kind, flat.view_as(head.values))]).sum()

    hessian: Tensor = torch.autograd.functional.hessian(total, head.values.flatten())
    return hessian


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["categorical", "binary", "value"])
def test_covariance_of_the_projection_is_the_fisher_information(kind: str, weighted: bool) -> None:
    """Half of the mean of (v . error)^2 is then the divergence that a small error makes."""
    weights = torch.tensor([[0.3, 2.0], [1.0, 0.0]], dtype=torch.float64) if weighted else None
    head = Head(kind, drawn(2, 3, 2, scale=1.0), weights)  # type: ignore[arg-type]
    v = directions(head, 4000)
    wanted = fisher(head)
    largest = float(wanted.abs().max())
    assert float(v.mean(0).abs().max()) < 0.05 * largest**0.5
    torch.testing.assert_close(v.T @ v / len(v), wanted, atol=0.07 * largest, rtol=0)


def test_heads_are_drawn_independently() -> None:
    a, b = (drawn(2, 1, 3, seed=seed).requires_grad_() for seed in (0, 1))
    random, products = torch.Generator().manual_seed(0), []
    for _ in range(2000):
        one, other = torch.autograd.grad(projection([Head("value", a), Head("binary", b)], random), (a, b))
        products.append(one.sign() * other.sign())
    assert float(torch.stack(products).mean(0).abs().max()) < 0.1


def test_the_deviation_counts_weights() -> None:
    values = torch.tensor([[[0.0, 2.0, 100.0]]])
    assert deviation(Head("value", values, torch.tensor([[1.0, 1.0, 0.0]]))) == pytest.approx(1.0)
    assert deviation(Head("value", values)) == pytest.approx(float(values.std(correction=0)))
    assert deviation(Head("value", torch.ones(2, 1, 3))) == pytest.approx(0.0, abs=1e-9)
