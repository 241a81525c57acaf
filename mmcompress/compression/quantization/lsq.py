"""LSQ: integers whose step is trained with the weights.

"Learned Step Size Quantization", Esser et al. 2020, arXiv:1902.08153: the step starts at
2 mean |W| / √Qp (section 2.1), its gradient is that of eq. 3, times 1 / √(N Qp) (section 2.2).
Where we differ: a step per channel or group; codes −Qp … Qp without the −Qp − 1 of two's
complement, or all codes half a step off zero (`midrise`); the step may start from the search of
`scales.py`; and the step that is used is the float16 that will be stored, its gradient handed on
unchanged.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import (
    Decision,
    Parametrization,
    as_matrix,
)
from mmcompress.compression.quantization.grid import (
    TENSOR,
    Grid,
    GroupSize,
    as_scale,
    check_bits,
    check_divides,
    check_group_size,
    in_columns,
)
from mmcompress.compression.quantization.rows import by_rows
from mmcompress.compression.quantization.scales import choose_scale, mean_magnitude
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import ValueStep

Start = Literal["mean", "search"]
STARTS = ("mean", "search")


class LearnedRound(torch.autograd.Function):
    """Q(w): the gradient of arXiv:1902.08153, eq. 3, for the step; straight through for weights
    that lie within the grid."""

    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, step: Tensor, grid: Grid, gradient_scale: float
    ) -> Tensor:
        ctx.save_for_backward(matrix, step)
        ctx.grid, ctx.gradient_scale = grid, gradient_scale

        def rounded(matrix: Tensor, step: Tensor) -> tuple[Tensor]:
            levels, spread = _levels(matrix, step, grid)
            return (_nearest(levels, grid).mul_(spread).view_as(matrix),)

        return by_rows(rounded, matrix, step)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        def slopes(gradient: Tensor, matrix: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
            levels, _ = _levels(matrix, step, ctx.grid)
            groups = gradient.reshape(levels.shape)
            inside = levels.abs().le_(ctx.grid.top)
            slope = _nearest(levels, ctx.grid).sub_(levels.mul_(inside))
            of_step = slope.mul_(groups).sum(dim=-1).mul_(ctx.gradient_scale)
            return (groups * inside).view_as(gradient), of_step

        return *by_rows(slopes, gradients[0], *ctx.saved_tensors), None, None


def _levels(matrix: Tensor, step: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Weights in units of the step that is stored (R, G, group_size), and that step (R, G, 1)."""
    spread = as_scale(step).float()[..., None]
    return grid.grouped(matrix) / spread, spread


def _nearest(levels: Tensor, grid: Grid) -> Tensor:
    """The grid's levels; zeros of an earlier mask stay zero."""
    nearest = grid.nearest_levels_(levels.clone())
    return nearest if grid.holds_zero(None) else nearest.mul_(levels.abs().sign_())


class LearnedStep(Parametrization):
    """Parametrization W → Q(W), the step trained.

    Args:
        weight: gives the shape and the first step.
        grid: the levels, symmetric.
        per_tensor: one step for everything.
        start: `mean` or `search`.
    """

    def __init__(self, weight: Tensor, grid: Grid, *, per_tensor: bool, start: Start) -> None:
        super().__init__()
        self.grid, self.per_tensor = grid, per_tensor
        matrix = as_matrix(weight)
        self.shape = grid.grouped(matrix).shape[:2]  # R G
        if per_tensor:
            matrix, grid = matrix.reshape(1, -1), replace(grid, group_size=matrix.numel())
        if start == "mean":
            step = 2 * mean_magnitude(matrix, group_size=grid.group_size) / grid.top**0.5
        else:
            step = choose_scale(matrix, grid)[0].float()
        # One dimension, so that the optimizer does not take it for a matrix that decays.
        self.step = nn.Parameter(step.flatten())
        self.gradient_scale = (grid.group_size * grid.top) ** -0.5

    def forward(self, weight: Tensor) -> Tensor:
        rounded = LearnedRound.apply(
            as_matrix(weight), self._spread(self.step), self.grid, self.gradient_scale
        )
        return rounded.view_as(weight)

    def _spread(self, step: Tensor) -> Tensor:
        return step.expand(self.shape) if self.per_tensor else step.view(self.shape)

    def scale(self) -> Tensor:
        """(rows, groups) float16, as it is used and stored."""
        return as_scale(self._spread(self.step.detach()))


class LSQ(ValueStep[LearnedStep]):
    """Weights as integers whose step is trained.

    Args:
        bits: width of a code. Legal: whole number from 2 to 8.
        group_size: columns that share a step; null for one step per output channel, `tensor` for
            one in all. Where it does not divide the columns of a weight, the largest smaller
            divisor takes its place. Legal: whole number of at least 1, `tensor` or null.
        midrise: use all 2^bits levels, half a step off zero, instead of 2^bits − 1 around zero.
            Legal: true or false.
        start: the first step: `mean` is the paper's, 2 mean |W| / √Qp; `search` has the least
            squared error. Legal: `mean` or `search`.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"bits": (2, 3, 4, 5, 6, 8)}
    no_speedup = "integer weights are decoded to float32 before they multiply"

    def __init__(
        self,
        *,
        bits: int,
        group_size: GroupSize = None,
        midrise: bool = False,
        start: Start = "search",
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        check_bits(bits)
        check_group_size(group_size, tensor=True)
        if start not in STARTS:
            raise ValueError(f"start={start!r} must be one of {', '.join(STARTS)}")
        self.bits, self.group_size, self.midrise = bits, group_size, midrise
        self.start: Start = start

    def check(self, target: Target, weight: Tensor) -> None:
        check_divides(self.group_size, target, weight)

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {t.name: self._decide(weights[t.name]) for t in targets}

    def _decide(self, weight: Tensor) -> Decision:
        grid = Grid(self.bits, in_columns(self.group_size, weight), midrise=self.midrise)
        return {
            "grid": grid.decision(),
            "per_tensor": self.group_size == TENSOR,
            "start": self.start,
        }

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> LearnedStep:
        weight = getattr(module, parameter).detach()
        options = decision | {"grid": Grid(**decision["grid"])}
        return LearnedStep(weight, **options)

    def finalize(self, parametrization: LearnedStep, weight: Tensor) -> Encoding:
        return parametrization.grid.encoding(weight, scale=parametrization.scale())
