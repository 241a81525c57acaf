"""Distillation terms: zero at the teacher, and equal to slow loops elsewhere."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.functional.distillation import affinity_loss, feature_loss, interactive_loss

ONE = torch.tensor(1.0)


def pair(seed: int, width: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first, second = F.normalize(torch.randn(2, 5, width, generator=generator), dim=-1)
    return first, second


def slow_softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


def slow_affinity(student: list[list[float]], teacher: list[list[float]]) -> float:
    """Mean over both directions and all rows of Σ p log(p / q), p the teacher's."""
    total = 0.0
    for ours, theirs in [(student, teacher), (transpose(student), transpose(teacher))]:
        for our_row, their_row in zip(ours, theirs, strict=True):
            q, p = slow_softmax(our_row), slow_softmax(their_row)
            total += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True))
    return total / (2 * len(student))


def transpose(rows: list[list[float]]) -> list[list[float]]:
    return [list(column) for column in zip(*rows, strict=True)]


def logits(embedded: tuple[Tensor, Tensor], scale: float) -> list[list[float]]:
    return (scale * embedded[0].double() @ embedded[1].double().T).tolist()


def test_affinity_is_zero_at_the_teacher():
    student = pair(0)
    scale = torch.tensor(20.0, requires_grad=True)
    loss = affinity_loss(student, student, scale, scale.detach())
    assert loss.item() == pytest.approx(0, abs=1e-6)  # float32
    loss.backward()
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(0, abs=1e-6)  # and it is a minimum


def test_affinity_equals_the_slow_loop():
    """The teacher may be of another width and temperature."""
    student, teacher = pair(0), pair(1, width=7)
    loss = affinity_loss(student, teacher, torch.tensor(5.0), torch.tensor(8.0))
    expected = slow_affinity(logits(student, 5.0), logits(teacher, 8.0))
    assert expected > 0.1
    assert loss.item() == pytest.approx(expected, rel=1e-5)  # float32 against float64
    reverse = affinity_loss(teacher, student, torch.tensor(8.0), torch.tensor(5.0))
    assert abs(reverse.item() - loss.item()) > 1e-3  # the teacher's distribution is the target


def test_affinity_has_the_gradient_of_the_cross_entropy():
    """What the docstring promises: KL and TinyCLIP's cross entropy differ by a constant."""
    teacher, (first, second) = pair(1), pair(0)
    first.requires_grad_()
    theirs = teacher[0] @ teacher[1].T

    def cross_entropy() -> Tensor:
        ours = first @ second.T
        forth = F.cross_entropy(ours, theirs.softmax(dim=1))
        return (forth + F.cross_entropy(ours.T, theirs.T.softmax(dim=1))) / 2

    (expected,) = torch.autograd.grad(cross_entropy(), first)
    (found,) = torch.autograd.grad(affinity_loss((first, second), teacher, ONE, ONE), first)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)  # float32
    assert expected.abs().max() > 1e-3


def test_feature_by_hand():
    """First modality: one pair equal, one at a right angle (2). Second: both opposite (4)."""
    teacher = torch.eye(2), torch.eye(2)
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), -torch.eye(2)
    assert feature_loss(student, teacher).item() == (0 + 2) / 2 + (4 + 4) / 2
    assert feature_loss(teacher, teacher).item() == 0
    opposite = tuple(-x for x in teacher)
    assert feature_loss((opposite[0], opposite[1]), teacher).item() == 8  # the upper bound


def test_interactive_equals_the_slow_loop():
    """Each student embedding looks for its partner among the teacher's of the other modality."""
    student, teacher = pair(0), pair(1)
    total = 0.0
    for ours, theirs in [(student[0], teacher[1]), (student[1], teacher[0])]:
        for i, row in enumerate((3.0 * ours.double() @ theirs.double().T).tolist()):
            total -= math.log(slow_softmax(row)[i])
    found = interactive_loss(student, teacher, torch.tensor(3.0))
    assert found.item() == pytest.approx(total / 10, rel=1e-5)  # 2 directions, 5 rows


def test_crd_of_clip_kd_is_twice_the_affinity():
    """arXiv:2307.12732, eq. 5-7: KL of both directions, summed."""
    student, teacher = pair(0), pair(1)
    ours, theirs = logits(student, 5.0), logits(teacher, 8.0)
    crd = 0.0
    for s, t in [(ours, theirs), (transpose(ours), transpose(theirs))]:
        for our_row, their_row in zip(s, t, strict=True):
            q, p = slow_softmax(our_row), slow_softmax(their_row)
            crd += sum(b * math.log(b / a) for a, b in zip(q, p, strict=True)) / len(ours)
    found = 2 * affinity_loss(student, teacher, torch.tensor(5.0), torch.tensor(8.0))
    assert found.item() == pytest.approx(crd, rel=1e-5)
