"""Conjugate gradients for least squares with many unknowns."""

from collections.abc import Callable

import torch
from torch import Tensor


def conjugate_gradients(
    start: Tensor,
    residual: Tensor,
    normal: Callable[[Tensor], Tensor],
    diagonal: Tensor,
    *,
    steps: int,
    tolerance: float = 0.0,
) -> Tensor:
    """A better X for A X = B, A symmetric and positive semi-definite.

    Hestenes and Stiefel 1952, with A's diagonal as preconditioner; the error
    tr((X − X*)ᵀ A (X − X*)) never rises.

    Args:
        start: X (n, d), where to start.
        residual: B − A X (n, d).
        normal: D → A D.
        diagonal: of A, (n, 1) or (n, d); unknowns at a zero of it stay.
        steps: at most.
        tolerance: stop where the residual's squared size, in the norm of the inverse diagonal, is
            within this share of that of A's diagonal times X.
    Returns:
        X (n, d).

    Example:
        >>> a, b = torch.tensor([[4.0, 1.0], [1.0, 3.0]]), torch.tensor([[1.0], [2.0]])
        >>> x = conjugate_gradients(
        ...     torch.zeros(2, 1), b, a.matmul, a.diagonal()[:, None], steps=2
        ... )
        >>> (11 * x).round().flatten().tolist()
        [1.0, 7.0]
    """
    x = start
    inverse = torch.where(diagonal > 0, 1 / diagonal.clamp(min=1e-30), torch.zeros_like(diagonal))
    direction = inverse * residual
    size = (residual * direction).sum()
    for _ in range(steps):
        if size <= tolerance * (x.square() * diagonal).sum():
            break
        curved = normal(direction)
        length = size / (direction * curved).sum()
        x = x + length * direction
        residual = residual - length * curved
        conditioned = inverse * residual
        size, before = (residual * conditioned).sum(), size
        direction = conditioned + size / before * direction
    return x
