"""The contrastive loss by hand and against a slow loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.functional.contrastive import contrastive_loss, partners


def slow_contrastive(first: Tensor, second: Tensor, scale: float) -> float:
    rows = [[scale * float(a @ b) for b in second.double()] for a in first.double()]
    size, total = len(rows), 0.0
    for i in range(size):
        forth = sum(math.exp(rows[i][j]) for j in range(size))
        back = sum(math.exp(rows[j][i]) for j in range(size))
        total -= math.log(math.exp(rows[i][i]) / forth) + math.log(math.exp(rows[i][i]) / back)
    return total / (2 * size)


def test_two_pairs_by_hand():
    """Logits [[2, 0], [0, 2]]: each cross entropy is log(1 + e⁻²)."""
    loss = contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor(2.0))
    assert loss.item() == pytest.approx(math.log1p(math.exp(-2)), rel=1e-6)  # float32
    swapped = contrastive_loss(torch.eye(2), torch.eye(2).flip(0), torch.tensor(2.0))
    assert swapped.item() == pytest.approx(2 + math.log1p(math.exp(-2)), rel=1e-6)


def test_both_directions_count():
    """Both images look like caption 0: logits [[1, 0], [1, 0]]."""
    first, second = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.eye(2)
    forth = (math.log1p(math.exp(-1)) + 1 + math.log1p(math.exp(-1))) / 2
    expected = (forth + math.log(2)) / 2
    loss = contrastive_loss(first, second, torch.tensor(1.0))
    assert loss.item() == pytest.approx(expected, rel=1e-6)  # float32


@pytest.mark.parametrize("size", [2, 7, 64])
def test_embeddings_that_say_nothing_cost_log_batch(size: int):
    same = F.normalize(torch.ones(size, 5), dim=1)
    loss = contrastive_loss(same, same, torch.tensor(50.0))
    assert loss.item() == pytest.approx(math.log(size), rel=1e-5)  # float32, logits of 50


def test_equals_the_slow_loop():
    generator = torch.Generator().manual_seed(0)
    first, second = F.normalize(torch.randn(2, 6, 4, generator=generator), dim=-1)
    loss = contrastive_loss(first, second, torch.tensor(10.0))
    expected = slow_contrastive(first, second, 10.0)
    assert loss.item() == pytest.approx(expected, rel=1e-5)  # float32 against float64


def test_pairs_of_one_concept_are_no_negatives():
    """UniCL (arXiv:2204.03610, eq. 2-4): minus the mean log-probability of all that are right."""
    generator = torch.Generator().manual_seed(0)
    first, second = F.normalize(torch.randn(2, 6, 4, generator=generator), dim=-1)
    concept = [3, 0, 3, 1, 3, 0]
    rows = [[8 * float(a @ b) for b in second.double()] for a in first.double()]
    total = 0.0
    for logits in (rows, [list(column) for column in zip(*rows, strict=True)]):
        for i, row in enumerate(logits):
            floor = math.log(sum(math.exp(x) for x in row))
            right = [row[j] - floor for j in range(6) if concept[j] == concept[i]]
            total -= sum(right) / len(right) / 12
    found = contrastive_loss(first, second, torch.tensor(8.0), torch.tensor(concept))
    assert found.item() == pytest.approx(total, rel=1e-5)  # float32 against float64


def test_concepts_that_all_differ_change_nothing():
    generator = torch.Generator().manual_seed(0)
    first, second = F.normalize(torch.randn(2, 6, 4, generator=generator), dim=-1)
    expected = contrastive_loss(first, second, torch.tensor(8.0))
    found = contrastive_loss(first, second, torch.tensor(8.0), torch.arange(6))
    torch.testing.assert_close(found, expected)
    assert partners(2, torch.tensor([1, 1])).tolist() == [[0.5, 0.5], [0.5, 0.5]]
