"""HQQ: integers with a real-valued zero point, which is what is optimized.

"Half-Quadratic Quantization of Large Machine Learning Models", Badri & Shaji 2023, the authors'
report: minimize ‖W − Q⁻¹(Q(W))‖_p^p with p < 1, which cares less about outliers than the squared
error does. No data is needed. The error is split off as W_e, and the two halves alternate:

    W_e ← shrink_p(W − s (W_q − z), β)        z ← mean over the group of W_q − (W − W_e) / s

with β growing by κ each time. Where we differ: errors are measured in steps (the published β is
meant for weights of about one), z is the float16 that is stored, and each group keeps the best z
that it has met, so that the error never ends above where it started.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import Decision, as_matrix, kept_mask
from mmcompress.compression.quantization.fake_quantize import FakeQuantize
from mmcompress.compression.quantization.grid import (
    LARGEST_SCALE,
    Grid,
    as_scale,
    check_bits,
    check_divides,
    check_group_size,
    in_columns,
)
from mmcompress.compression.quantization.rows import by_rows
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import ValueStep

P = 0.7
BETA = 10.0
KAPPA = 1.01
ITERATIONS = 20

LARGEST_ZERO = 1024
"""Bound on |z|, which float16 still holds to half a step; it matters in constant groups."""


def shrink(error: Tensor, powered: Tensor, beta: float) -> Tensor:
    """The proximal step of the p-norm: sign(x) relu(|x| − |x|^(p−1) / β).

    Args:
        error: x, any shape.
        powered: |x|^p.
        beta: positive; less shrinks more.
    """
    magnitude = error.abs()
    smaller = magnitude - powered / (beta * magnitude.clamp(min=1e-12))
    return error.sign() * smaller.clamp_(min=0)


def half_quadratic(weight: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Scale by the range of each group, zero point by half-quadratic splitting.

    Args:
        weight: (rows, columns); zeros have been pruned and do not count.
        grid: asymmetric.
    Returns:
        scale and zero point, both (rows, columns / group_size) float16.
    """
    scale, zero_point = by_rows(lambda rows: _solve(grid.grouped(rows).float(), grid.bits), weight)
    return scale, zero_point


def _solve(groups: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """`half_quadratic` of weights (rows, groups, group_size)."""
    kept = kept_mask(groups)
    count = kept.sum(dim=-1, keepdim=True).clamp(min=1)  # R G 1
    low = torch.where(kept, groups, torch.inf).amin(dim=-1, keepdim=True)
    high = torch.where(kept, groups, -torch.inf).amax(dim=-1, keepdim=True)
    low, high = (torch.where(end.isfinite(), end, 0.0) for end in (low, high))
    most = 2**bits - 1
    bound = torch.maximum(low.abs(), high.abs()) / LARGEST_ZERO
    scale = as_scale(torch.maximum((high - low) / most, bound))
    levels = groups / scale.float()
    zero = _as_zero(-low / scale.float())
    best_zero, best_error = zero, torch.full_like(low, torch.inf)
    for iteration in range(ITERATIONS + 1):
        codes = (levels + zero.float()).round_().clamp_(0, most)
        error = (levels - (codes - zero.float())).mul_(kept)
        powered = error.abs().pow_(P)
        total = powered.sum(dim=-1, keepdim=True)
        better = total < best_error
        best_error = torch.where(better, total, best_error)
        best_zero = torch.where(better, zero, best_zero)
        split = shrink(error, powered, BETA * KAPPA**iteration)
        zero = _as_zero((codes - levels + split).mul_(kept).sum(dim=-1, keepdim=True) / count)
    return scale[..., 0], best_zero[..., 0]


def _as_zero(values: Tensor) -> Tensor:
    """As the zero points that are stored: float16, not infinite where the scale had to be cut."""
    return values.clamp(-LARGEST_SCALE, LARGEST_SCALE).half()


class HQQ(ValueStep[FakeQuantize]):
    """Weights as integers around a real-valued zero point; no data are needed.

    Args:
        bits: width of a code. Legal: whole number from 1 to 8.
        group_size: columns that share scale and zero point; null for all of an output channel.
            Where it does not divide the columns of a weight, the largest smaller divisor takes its
            place. Legal: whole number of at least 1, or null.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"bits": (2, 3, 4, 5, 6, 8)}
    no_speedup = "integer weights are decoded to float32 before they multiply"

    def __init__(self, *, bits: int, group_size: int | None = None, **selectors: Any) -> None:
        super().__init__(**selectors)
        check_bits(bits, low=1)
        check_group_size(group_size)
        self.bits, self.group_size = bits, group_size

    def check(self, target: Target, weight: Tensor) -> None:
        check_divides(self.group_size, target, weight)

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {
            t.name: {
                "bits": self.bits,
                "group_size": in_columns(self.group_size, weights[t.name]),
                "symmetric": False,
            }
            for t in targets
        }

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> FakeQuantize:
        grid = Grid(**decision)
        weight = getattr(module, parameter).detach()
        return FakeQuantize(grid, *half_quadratic(as_matrix(weight), grid))

    def finalize(self, parametrization: FakeQuantize, weight: Tensor) -> Encoding:
        return parametrization.encoding(weight)
