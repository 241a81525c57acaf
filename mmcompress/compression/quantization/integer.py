"""Fixed-point quantization Q(W): integers of a few bits, and a scale per channel or per group.

Rounding to nearest on a uniform grid, known as RTN when nothing is trained afterwards.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import Decision, as_matrix
from mmcompress.compression.quantization.fake_quantize import FakeQuantize
from mmcompress.compression.quantization.grid import (
    Grid,
    check_bits,
    check_divides,
    check_group_size,
    check_midrise,
    in_columns,
)
from mmcompress.compression.quantization.scales import choose_scale
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import ValueStep


class Integer(ValueStep[FakeQuantize]):
    """Weights as integers, rounded to nearest.

    Args:
        bits: width of a code. Legal: whole number from 2 to 8.
        group_size: columns that share a scale; null for one scale per output channel. Where it does
            not divide the columns of a weight, the largest smaller divisor takes its place. Legal:
            whole number of at least 1, or null.
        symmetric: codes lie around zero and there is no zero point. Legal: true or false.
        midrise: use all 2^bits levels, half a step off zero, instead of 2^bits − 1 around zero;
            with 2 bits these are four levels instead of three. Pruned weights then cost a mask. It
            needs `symmetric`. Legal: true or false.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"bits": (2, 3, 4, 5, 6, 8)}
    no_speedup = "integer weights are decoded to float32 before they multiply"

    def __init__(
        self,
        *,
        bits: int,
        group_size: int | None = None,
        symmetric: bool = True,
        midrise: bool = False,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        check_bits(bits)
        check_group_size(group_size)
        check_midrise(midrise, symmetric)
        self.bits, self.group_size = bits, group_size
        self.symmetric, self.midrise = symmetric, midrise

    def check(self, target: Target, weight: Tensor) -> None:
        check_divides(self.group_size, target, weight)

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {t.name: self.grid_for(weights[t.name]).decision() for t in targets}

    def grid_for(self, weight: Tensor) -> Grid:
        """The levels by the settings."""
        columns = in_columns(self.group_size, weight)
        return Grid(self.bits, columns, self.symmetric, self.midrise)

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
        return FakeQuantize(grid, *choose_scale(as_matrix(weight), grid))

    def finalize(self, parametrization: FakeQuantize, weight: Tensor) -> Encoding:
        return parametrization.encoding(weight)
