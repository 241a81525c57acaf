"""The contrastive loss by hand and against a slow loop."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmcompress.objectives.contrastive import contrastive_loss


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
