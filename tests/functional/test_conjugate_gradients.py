import pytest
import torch
from torch import Tensor

from mmcompress.functional.conjugate_gradients import conjugate_gradients


def system(size: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """A, B and where to start."""
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size + 2, generator=generator, dtype=torch.float64)
    right = torch.randn(size, 3, generator=generator, dtype=torch.float64)
    return root @ root.T, right, torch.randn(size, 3, generator=generator, dtype=torch.float64)


def reference(a: Tensor, b: Tensor, x: Tensor, steps: int) -> Tensor:
    """Algorithm 11.5.1 of Golub and Van Loan, Matrix Computations, on vec(X)."""
    whole, m = torch.block_diag(a, a, a), a.diagonal().repeat(3)
    x = x.T.flatten()
    r = b.T.flatten() - whole @ x
    z = r / m
    p = z
    for _ in range(steps):
        alpha = (r @ z) / (p @ whole @ p)
        x = x + alpha * p
        before = r @ z
        r = r - alpha * (whole @ p)
        z = r / m
        p = z + (r @ z) / before * p
    return x.view(3, -1).T


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_equals_the_textbook(steps: int) -> None:
    a, b, start = system(6, seed=steps)
    found = conjugate_gradients(start, b - a @ start, a.matmul, a.diagonal()[:, None], steps=steps)
    torch.testing.assert_close(found, reference(a, b, start, steps))


def test_as_many_steps_as_unknowns_solve_it() -> None:
    a, b, start = system(4, seed=0)
    found = conjugate_gradients(start, b - a @ start, a.matmul, a.diagonal()[:, None], steps=12)
    torch.testing.assert_close(found, torch.linalg.solve(a, b))


def test_the_error_never_rises() -> None:
    a, b, start = system(9, seed=5)
    best = torch.linalg.solve(a, b)
    errors = []
    for steps in range(6):
        x = conjugate_gradients(start, b - a @ start, a.matmul, a.diagonal()[:, None], steps=steps)
        errors.append(float(((x - best) * (a @ (x - best))).sum()))
    assert errors == sorted(errors, reverse=True)


def test_unknowns_that_nothing_depends_on_stay() -> None:
    a = torch.diag(torch.tensor([2.0, 0.0]))
    start = torch.tensor([[1.0], [5.0]])
    residual = torch.tensor([[4.0], [0.0]]) - a @ start
    found = conjugate_gradients(start, residual, a.matmul, a.diagonal()[:, None], steps=3)
    assert found.flatten().tolist() == [2.0, 5.0]


def test_a_tolerance_ends_it_where_it_starts() -> None:
    a, b, start = system(5, seed=2)
    found = conjugate_gradients(
        start, b - a @ start, a.matmul, a.diagonal()[:, None], steps=3, tolerance=1e9
    )
    assert torch.equal(found, start)
