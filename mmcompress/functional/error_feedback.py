"""Columns are replaced one after another, and those that are left make up for the error.

With Uᵀ U = H⁻¹ (`functional.hessian`), a column j that is off by e costs least once the columns
after it have moved by −e / U_jj · U_j,later: "GPTQ", Frantar et al. 2022, arXiv:2210.17323,
algorithm 1. SparseGPT prunes in the same way (arXiv:2301.00774, algorithm 1), and GPTVQ replaces
several columns at once (arXiv:2402.15319, algorithm 1).

Weights stand transposed here, as C columns of R values each, so that the values of a column lie
side by side.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

BLOCK = 128
"""Columns after which all later ones are updated at once (arXiv:2210.17323, section 3.3)."""


def feed_back_errors(
    columns: Tensor,
    factor: Tensor,
    choose: Callable[[int], Tensor],
    *,
    block_size: int = BLOCK,
    group_size: int = 1,
) -> None:
    """Replace column after column, in place.

    Args:
        columns: (C, R) float32; column j ends as what was chosen for it.
        factor: U (C, C), upper Cholesky factor of the inverse Hessian.
        choose: j → values (R,) for column j. It reads column j as it stands then. What it writes
            to column j before it returns is no error, and is not made up for.
        block_size: columns after which all later ones are updated at once; fewer read `factor`
            more often.
        group_size: all columns of a group are up to date when its first one is chosen.
    """
    for start, end in blocks(len(columns), block_size=block_size, group_size=group_size):
        errors = torch.empty_like(columns[start:end])
        for j in range(start, end):
            chosen = choose(j)
            error = torch.sub(columns[j], chosen, out=errors[j - start]).div_(factor[j, j])
            columns[j] = chosen
            columns[j + 1 : end].addr_(factor[j, j + 1 : end], error, alpha=-1.0)
        _update_later(columns, factor, errors, start, end)


def feed_back_joint_errors(
    columns: Tensor, factor: Tensor, choose: Callable[[int, Tensor], Tensor], *, size: int
) -> None:
    """Replace runs of neighboring columns, each run at once and in place.

    A run J that is off by δ (a row of `size` values) costs ‖δ U_JJ⁻¹‖² once the columns after it
    have moved by −δ U_JJ⁻¹ U_J,later.

    Args:
        columns: (C, R) float32; they end as what was chosen for them.
        factor: U (C, C), upper Cholesky factor of the inverse Hessian.
        choose: first column of a run and U_JJ⁻¹ (size, size) → values (size, R).
        size: columns of a run; divides C.
    """
    identity = torch.eye(size, dtype=factor.dtype, device=factor.device)
    for start in range(0, len(columns), size):
        end = start + size
        inverse = torch.linalg.solve_triangular(factor[start:end, start:end], identity, upper=True)
        chosen = choose(start, inverse)
        errors = inverse.T @ (columns[start:end] - chosen)
        columns[start:end] = chosen
        _update_later(columns, factor, errors, start, end)


def _update_later(columns: Tensor, factor: Tensor, errors: Tensor, start: int, end: int) -> None:
    columns[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1.0)


def blocks(
    columns: int, *, block_size: int = BLOCK, group_size: int = 1
) -> Iterator[tuple[int, int]]:
    """Start and end of runs of at most `block_size` columns; each starts with a group or lies in
    one."""
    span = group_size * max(block_size // group_size, 1)
    for outer in range(0, columns, span):
        stop = min(outer + span, columns)
        for start in range(outer, stop, block_size):
            yield start, min(start + block_size, stop)
