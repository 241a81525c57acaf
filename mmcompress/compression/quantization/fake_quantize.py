"""Fake quantization while training: the weight that is used is the one that will be stored.

The gradient passes straight through the rounding (`StraightThrough`) and is zero where a weight is
clipped by more than a step.
"""

from typing import Any

import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding
from mmcompress.compression.base import Parametrization, as_matrix
from mmcompress.compression.quantization.grid import Grid, as_scale
from mmcompress.compression.quantization.rows import by_rows


class NearThrough(torch.autograd.Function):
    """`StraightThrough` for weights that rounding moved by no more than `step`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor, step: Tensor) -> Tensor:
        """Args: weight and rounded (rows, columns), step (rows, groups, columns of it or 1)."""
        ctx.save_for_backward(weight, rounded, step)
        return rounded.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        def passed(
            gradient: Tensor, weight: Tensor, rounded: Tensor, step: Tensor
        ) -> tuple[Tensor]:
            near = (rounded - weight).abs_().view(*step.shape[:2], -1).le_(step)
            return (near.view_as(gradient).mul_(gradient),)

        return *by_rows(passed, gradients[0], *ctx.saved_tensors), None, None


def to_half(scale: Tensor) -> Tensor:
    """The float16 that will be stored, as float32; its gradient is handed on unchanged."""
    stored = as_scale(scale.detach()).float()
    return stored + (scale - scale.detach())  # the bracket is exactly zero


class FakeQuantize(Parametrization):
    """Parametrization W → Q(W) with fixed scales; zeros of an earlier mask stay zero.

    Args:
        grid: the levels.
        scale, zero_point, column_scale: as in `Grid.snap`.
        initial: the weight to start from; the present one when None.
    """

    scale: Tensor
    zero_point: Tensor | None
    column_scale: Tensor | None

    def __init__(
        self,
        grid: Grid,
        scale: Tensor,
        zero_point: Tensor | None = None,
        column_scale: Tensor | None = None,
        *,
        initial: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.initial = initial
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)
        self.register_buffer("column_scale", column_scale)

    def forward(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(weight)
        with torch.no_grad():
            sides = [self.scale] if self.zero_point is None else [self.scale, self.zero_point]
            (rounded,) = by_rows(self._round, matrix, *sides)
            step = self.scale.float()[..., None]  # R G 1
            if self.column_scale is not None:
                step = step * self.grid.grouped(self.column_scale.float()[None])
        return NearThrough.apply(matrix, rounded, step).view_as(weight)

    def _round(
        self, matrix: Tensor, scale: Tensor, zero_point: Tensor | None = None
    ) -> tuple[Tensor]:
        rounded = self.grid.snap(matrix, scale, zero_point, self.column_scale)
        if not self.grid.holds_zero(zero_point):
            rounded *= matrix.abs().sign_()
        return (rounded,)

    def encoding(self, weight: Tensor) -> Encoding:
        """How the baked weight is stored."""
        sides = {
            "scale": self.scale,
            "zero_point": self.zero_point,
            "column_scale": self.column_scale,
        }
        return self.grid.encoding(weight, **sides)
