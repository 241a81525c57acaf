"""Lookups that can be read."""

import pytest
import torch

from mmcompress.functional.lookup import lookup


def test_scalar_and_rows_by_hand() -> None:
    scalars = torch.tensor([[0.5], [-2.0]], dtype=torch.float16)
    values = lookup(torch.tensor([0, 1, 1, 0]), scalars, (2, 2))
    assert values.tolist() == [[0.5, -2.0], [-2.0, 0.5]]
    assert values.dtype == torch.float32
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert lookup(torch.tensor([1, 0, 1]), rows, (3, 2)).tolist() == [[3, 4], [1, 2], [3, 4]]


def test_gradient_of_an_entry_is_the_sum_over_its_places() -> None:
    codebook = torch.zeros(2, 1, requires_grad=True)
    weights = torch.tensor([[1.0, 2.0], [4.0, 8.0]])
    (lookup(torch.tensor([0, 1, 0, 0]), codebook, (2, 2)) * weights).sum().backward()
    assert codebook.grad is not None
    assert codebook.grad.tolist() == [[13.0], [2.0]]


def test_refuses_an_index_past_the_end() -> None:
    with pytest.raises(IndexError):
        lookup(torch.tensor([2]), torch.zeros(2, 1), (1, 1))
