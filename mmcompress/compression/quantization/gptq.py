"""GPTQ: round one input column after another, and let the columns left make up for the error.

"GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", Frantar et al.
2022, arXiv:2210.17323, algorithm 1, with its act-order option (columns in the order of falling
second moment). The error that is made up for is that of the layer's output on calibration data,
trace((Ŵ − W) H (Ŵ − W)ᵀ) with H the second moment of its input.

Where we differ: scales come from the search of `scales.py`. A group's scale is chosen when its
first column is reached, on the columns as corrected until then; with act-order, where a group's
columns are met in any order, all scales are chosen beforehand. Weights that an earlier mask has
made zero stay zero, and what that would add to the error is made up for like rounding (as
SparseGPT does, arXiv:2301.00774, section 3.4).

An embedding reads one row at a time: H is a multiple of the identity for each row, and GPTQ is
rounding to nearest. A bare parameter has no input that could be seen, and is rounded too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from mmcompress.backbones.base import WITHOUT_MOMENT, Target
from mmcompress.compression.base import Decision, as_matrix, kept_mask
from mmcompress.compression.modality_balance import WeighsTokens, inputs_for
from mmcompress.compression.quantization.fake_quantize import FakeQuantize
from mmcompress.compression.quantization.grid import Grid
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.quantization.scales import choose_scale
from mmcompress.compression.statistics import Statistic
from mmcompress.functional.error_feedback import feed_back_errors
from mmcompress.functional.hessian import DAMPING


def output_error(difference: Tensor, moment: Tensor) -> Tensor:
    """trace(E H Eᵀ): squared error of a layer's output, summed over all calibration tokens.

    Args:
        difference: E (out, in), between two weights.
        moment: H (in, in).
    Returns:
        A scalar, float32.
    """
    return ((difference @ moment) * difference).sum()


def gptq(
    weight: Tensor, factor: Tensor, grid: Grid, *, order: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Weights on the grid whose output error is small.

    Args:
        weight: (out, in); zeros stay zero where the grid lacks zero or the row holds a mask.
        factor: upper Cholesky factor (in, in) of the inverse of H, the sum of x xᵀ; of its columns
            in `order`.
        grid: the levels.
        order: (in,) int64, in which columns are visited; from the left when None.
    Returns:
        Quantized weight (out, in) float32, scale and zero point as from `choose_scale`.
    """
    kept = kept_mask(weight)
    mask = None if kept.all() else kept.T.contiguous()
    columns = weight.float().T.contiguous()  # C R: a column's weights lie side by side
    if order is not None:
        columns = columns[order]
        mask = None if mask is None else mask[order]
    scale, zero_point = choose_scale(weight, grid)
    places = range(len(columns)) if order is None else order.tolist()
    lazily = order is None and grid.group_size < weight.shape[1]

    def rounded(j: int) -> Tensor:
        group = places[j] // grid.group_size
        if lazily and j % grid.group_size == 0:
            _choose_again(scale, zero_point, columns, mask, group, grid)
        points = None if zero_point is None else zero_point[:, group].float()
        found = grid.nearest(columns[j], scale[:, group].float(), points)
        return found if mask is None else found.mul_(mask[j])

    feed_back_errors(columns, factor, rounded, group_size=grid.group_size if lazily else 1)
    if order is not None:
        columns = columns[order.argsort()]
    return columns.T.contiguous(), scale, zero_point


def _choose_again(
    scale: Tensor,
    zero_point: Tensor | None,
    columns: Tensor,
    mask: Tensor | None,
    group: int,
    grid: Grid,
) -> None:
    """Write scale and zero point of one group, for its columns as they stand now."""
    places = slice(group * grid.group_size, (group + 1) * grid.group_size)
    values = columns[places] if mask is None else columns[places] * mask[places]
    chosen, points = choose_scale(values.T.contiguous(), grid)
    scale[:, group] = chosen[:, 0]
    if zero_point is not None and points is not None:
        zero_point[:, group] = points[:, 0]


class GPTQ(WeighsTokens, Integer):
    """Weights as integers, where each column makes up for the rounding of those before it.

    Args:
        act_order: visit columns by falling second moment of their input. Legal: true or false.
        damping: share of the mean second moment that is added to the diagonal. Legal: number above
            0.
        **settings: `modality`, `part`, `role`, `granularity`; the other settings are those of
            `Integer` and of `WeighsTokens`.
    """

    def __init__(
        self,
        *,
        bits: int,
        group_size: int | None = None,
        symmetric: bool = True,
        midrise: bool = False,
        act_order: bool = False,
        damping: float = DAMPING,
        **settings: Any,
    ) -> None:
        super().__init__(
            bits=bits, group_size=group_size, symmetric=symmetric, midrise=midrise, **settings
        )
        if damping <= 0:
            raise ValueError(f"damping={damping} must be above 0: it makes H invertible")
        self.act_order, self.damping = act_order, damping
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
        if target.granularity in WITHOUT_MOMENT:
            return {"rounding": "nearest", "grid": grid.decision()}
        options = {"act_order": self.act_order, "damping": self.damping}
        return {"rounding": "gptq", "grid": grid.decision(), **options, **self.decided()}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> FakeQuantize:
        weight = getattr(module, parameter).detach()
        grid = Grid(**decision["grid"])
        if decision["rounding"] == "nearest" or statistic is None:
            return FakeQuantize(grid, *choose_scale(as_matrix(weight), grid))
        options = {key: decision[key] for key in ("damping", "act_order")}
        inputs = inputs_for(statistic, decision)
        factor = inputs.inverse_cholesky(**options)
        order = inputs.falling_order() if decision["act_order"] else None
        quantized, scale, zero_point = gptq(as_matrix(weight), factor, grid, order=order)
        return FakeQuantize(grid, scale, zero_point, initial=quantized.view_as(weight))
