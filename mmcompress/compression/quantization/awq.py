"""AWQ: make the columns that large inputs meet larger before rounding, and smaller again after.

"AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration", Lin et al. 2023,
arXiv:2306.00978, section 3.2: Q(W diag(s)) diag(s)⁻¹ with s = (mean |x|)^α per input, α searched on
a grid of 20 by the error of the layer's output (eq. 4 and 5). Where we differ: the output error
comes from the second moment of the input instead of running the layer; weights are clipped, which
the paper does once s is found, for each s that is tried (`scales.py`, columns counted by the second
moment of their input); and diag(s)⁻¹ is stored with the weight instead of moving into the layer
before.

An embedding has no inputs that differ in size, and a bare parameter none that could be seen: they
are rounded to nearest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmcompress.backbones.base import WITHOUT_MOMENT, Target
from mmcompress.compression.base import Decision, as_matrix
from mmcompress.compression.modality_balance import WeighsTokens, inputs_for
from mmcompress.compression.quantization.fake_quantize import FakeQuantize
from mmcompress.compression.quantization.gptq import output_error
from mmcompress.compression.quantization.grid import Grid, as_scale
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.quantization.scales import CANDIDATES, choose_scale
from mmcompress.compression.statistics import InputStatistic, Statistic

ALPHAS = 20
"""Exponents that are tried: 0, 0.05, … 0.95."""

COARSE = 8
"""Scales that are tried for each exponent; the exponent that is chosen gets the full search."""

Scales = tuple[Tensor, Tensor | None, Tensor]
"""Scale and zero point as from `choose_scale`, and 1 / s (in,) float16."""

SMALLEST_INPUT = 1e-4
"""Mean magnitude below which inputs are treated alike."""


def column_scales(abs_mean: Tensor, alpha: float) -> Tensor:
    """1 / s with s = (mean |x|)^α, scaled so that the largest and the smallest are inverses.

    Args:
        abs_mean: (in,).
        alpha: in [0, 1].
    Returns:
        (in,) float16, as it is stored.

    Example:
        >>> import torch
        >>> column_scales(torch.tensor([1.0, 16.0, 4.0]), 0.5).tolist()
        [2.0, 0.5, 1.0]
    """
    s = abs_mean.clamp(min=SMALLEST_INPUT).pow(alpha)
    return as_scale((s.max() * s.min()).sqrt() / s)


def scales_for(
    weight: Tensor,
    inputs: InputStatistic,
    grid: Grid,
    column_scale: Tensor,
    candidates: int = CANDIDATES,
) -> Scales:
    """The other scales once 1 / s is given: those with the least output error, inputs taken to be
    uncorrelated.

    Args:
        weight: (out, in).
        inputs: of the layer.
        grid: the levels.
        column_scale: (in,), 1 / s.
        candidates: scales that are tried.
    """
    back = column_scale.float()
    importance = inputs.second_moment.diagonal() * back.square()
    found = choose_scale(weight / back, grid, importance=importance, candidates=candidates)
    return *found, column_scale


def error_with(weight: Tensor, inputs: InputStatistic, grid: Grid, scales: Scales) -> float:
    """Squared error of the layer's output, summed over all calibration tokens.

    Args:
        weight: (out, in), before it is rounded.
        inputs: of the layer.
        grid: the levels.
        scales: with which it is rounded.
    """
    scale, zero_point, column_scale = scales
    rounded = grid.snap(weight, scale, zero_point, column_scale)
    return float(output_error(rounded - weight, inputs.second_moment))


def search_column_scale(weight: Tensor, inputs: InputStatistic, grid: Grid) -> Tensor:
    """The 1 / s whose rounded weight has the least output error (arXiv:2306.00978, eq. 4).

    Args:
        weight: (out, in).
        inputs: of the layer.
        grid: the levels.
    Returns:
        (in,) float16.
    """

    def error(column_scale: Tensor) -> float:
        scales = scales_for(weight, inputs, grid, column_scale, COARSE)
        return error_with(weight, inputs, grid, scales)

    tried = [column_scales(inputs.abs_mean, index / ALPHAS) for index in range(ALPHAS)]
    return min(tried, key=error)


def awq(weight: Tensor, inputs: InputStatistic, grid: Grid) -> Scales:
    """Scales whose output error is not above that of rounding to nearest without s.

    Args:
        weight: (out, in).
        inputs: of the layer.
        grid: the levels.
    """
    ones = column_scales(inputs.abs_mean, 0.0)
    found: list[Scales] = [
        scales_for(weight, inputs, grid, search_column_scale(weight, inputs, grid)),
        scales_for(weight, inputs, grid, ones),
        (*choose_scale(weight, grid), ones),
    ]
    return min(found, key=lambda scales: error_with(weight, inputs, grid, scales))


class AWQ(WeighsTokens, Integer):
    """Weights as integers, on a finer grid where inputs are large.

    Args:
        **settings: those of `Integer` and of `WeighsTokens`.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.needs = frozenset({self.need})

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {t.name: self._decide(t, weights[t.name]) for t in targets}

    def _decide(self, target: Target, weight: Tensor) -> Decision:
        grid = self.grid_for(weight)
        nearest = target.granularity in WITHOUT_MOMENT
        if nearest:
            return {"rounding": "nearest", "grid": grid.decision()}
        return {"rounding": "awq", "grid": grid.decision(), **self.decided()}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> FakeQuantize:
        matrix = as_matrix(getattr(module, parameter).detach())
        grid = Grid(**decision["grid"])
        if decision["rounding"] == "nearest":
            return FakeQuantize(grid, *choose_scale(matrix, grid))
        if statistic is None:
            unset = matrix.new_ones(matrix.shape[1]).half()
            return FakeQuantize(grid, *choose_scale(matrix, grid), unset)
        return FakeQuantize(grid, *awq(matrix, inputs_for(statistic, decision), grid))
