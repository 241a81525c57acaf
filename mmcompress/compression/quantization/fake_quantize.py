"""Fake quantisation while training: the weight that is used is the one that will be stored.

The gradient passes straight through the rounding (Bengio et al. 2013, arXiv:1308.3432) and is zero
where a weight is clipped by more than a step.
"""

from typing import Any

import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding
from mmcompress.compression.base import Parametrization, as_matrix, kept_mask
from mmcompress.compression.quantization.grid import Grid, as_scale


class StraightThrough(torch.autograd.Function):
    """Take `rounded` forward, and hand its gradient to `weight` where `passes`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor, passes: Tensor | None) -> Tensor:
        ctx.save_for_backward(passes)
        return rounded.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (passes,) = ctx.saved_tensors
        (gradient,) = gradients
        return (gradient if passes is None else gradient * passes), None, None


def to_half(scale: Tensor) -> Tensor:
    """The float16 that will be stored, as float32; its gradient is handed on unchanged."""
    stored = as_scale(scale.detach()).float()
    return stored + (scale - scale.detach())  # the bracket is exactly zero


class FakeQuantize(Parametrization):
    """Parametrisation W → Q(W) with fixed scales; zeros of an earlier mask stay zero.

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
            rounded = self.grid.snap(matrix, self.scale, self.zero_point, self.column_scale)
            passes = self._near(matrix, rounded) if weight.requires_grad else None
            if not self.grid.holds_zero(self.zero_point):
                rounded *= kept_mask(matrix)
        return StraightThrough.apply(matrix, rounded, passes).view_as(weight)

    def _near(self, matrix: Tensor, rounded: Tensor) -> Tensor:
        """Where rounding moved a weight by no more than a step."""
        distance = self.grid.grouped((rounded - matrix).abs_())
        step = self.scale.float()[..., None]  # R G 1
        if self.column_scale is not None:
            step = step * self.grid.grouped(self.column_scale.float()[None]).abs()
        return (distance <= step).view_as(matrix)

    def encoding(self, weight: Tensor) -> Encoding:
        """How the baked weight is stored."""
        sides = {
            "scale": self.scale,
            "zero_point": self.zero_point,
            "column_scale": self.column_scale,
        }
        return self.grid.encoding(weight, **sides)
