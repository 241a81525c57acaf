"""Error feedback against the elimination of one row and column of H⁻¹ after another."""

import pytest
import torch
from torch import Tensor

from mmcompress.functional.error_feedback import blocks, feed_back_errors, feed_back_joint_errors
from mmcompress.functional.hessian import inverse_cholesky


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moment_of(inputs: int) -> Tensor:
    mixed = random(inputs, inputs, seed=1) @ random(inputs, 3 * inputs, seed=2)
    return mixed @ mixed.T / inputs**2


def eliminated(weight: Tensor, moment: Tensor, size: int) -> Tensor:
    """Every run of columns becomes zero, and those after it move as optimal brain surgery moves
    them (arXiv:2208.11580, eq. 5): δ = −w_J ([H⁻¹]_JJ)⁻¹ [H⁻¹]_J, of the columns that are left.

    Returns:
        What each column held when its turn came.
    """
    h = moment.double()
    h = h + 0.01 * h.diagonal().mean() * torch.eye(len(h))
    w = weight.double().clone()
    for q in range(0, len(h), size):
        inverse = torch.linalg.inv(h[q:, q:])
        solved = torch.linalg.solve(inverse[:size, :size], inverse[:size, size:])
        w[:, q + size :] -= w[:, q : q + size] @ solved
    return w


@pytest.mark.parametrize("block_size", [1, 5, 128])
def test_each_column_is_met_as_elimination_leaves_it(block_size: int) -> None:
    weight, moment = random(4, 12, seed=3), moment_of(12)
    columns, met = weight.T.contiguous(), torch.zeros(12, 4)

    def choose(j: int) -> Tensor:
        met[j] = columns[j]
        return torch.zeros(4)

    feed_back_errors(columns, inverse_cholesky(moment), choose, block_size=block_size)
    torch.testing.assert_close(met.T.double(), eliminated(weight, moment, 1), rtol=1e-4, atol=1e-4)
    assert not columns.any(), "what was chosen stands there at the end"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_each_run_is_met_as_elimination_leaves_it(size: int) -> None:
    weight, moment = random(4, 12, seed=3), moment_of(12)
    columns, met = weight.T.contiguous(), torch.zeros(12, 4)

    def choose(start: int, inverse: Tensor) -> Tensor:
        met[start : start + size] = columns[start : start + size]
        return torch.zeros(size, 4)

    feed_back_joint_errors(columns, inverse_cholesky(moment), choose, size=size)
    torch.testing.assert_close(
        met.T.double(), eliminated(weight, moment, size), rtol=1e-4, atol=1e-4
    )
    assert not columns.any()


def test_two_equal_inputs_by_hand() -> None:
    """x₁ = x₂: what the left one loses, the right one takes over."""
    moment = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    columns = torch.tensor([[2.0], [3.0], [7.0]])
    values = [1.5, 3.5, 7.0]
    met = []

    def choose(j: int) -> Tensor:
        met.append(round(float(columns[j]), 3))
        return torch.tensor([values[j]])

    feed_back_errors(columns, inverse_cholesky(moment, damping=1e-6), choose)
    assert met == [2.0, 3.5, 7.0]
    assert columns.flatten().tolist() == values


def test_what_is_written_before_the_choice_is_no_error() -> None:
    moment = torch.ones(2, 2) + 0.01 * torch.eye(2)
    columns = torch.tensor([[2.0], [3.0]])

    def choose(j: int) -> Tensor:
        return columns[j].zero_() if j == 0 else columns[j]

    feed_back_errors(columns, inverse_cholesky(moment), choose)
    assert columns.flatten().tolist() == [0.0, 3.0]


@pytest.mark.parametrize(("columns", "group_size"), [(300, 300), (192, 8), (600, 150), (96, 96)])
def test_blocks_tile_the_columns_and_no_block_crosses_into_a_started_group(
    columns: int, group_size: int
) -> None:
    found = list(blocks(columns, group_size=group_size))
    assert [j for start, end in found for j in range(start, end)] == list(range(columns))
    for start, end in found:
        assert end - start <= 128
        for group in range(start // group_size + 1, (end - 1) // group_size + 1):
            assert (group + 1) * group_size <= end, "its last columns would be out of date"
