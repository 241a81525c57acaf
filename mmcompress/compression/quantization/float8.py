"""8-bit floats, e4m3: 4 bits of exponent and 3 of mantissa, a scale per channel or group.

"FP8 Formats for Deep Learning", Micikevicius et al. 2022, arXiv:2209.05433, section 3: the scale
maps the largest magnitude of a channel to 448, the largest number of the format. Levels lie closer
around zero than those of int8, which suits weights with outliers.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import Decision, Parametrization, as_matrix
from mmcompress.compression.quantization.grid import (
    as_scale,
    check_divides,
    check_group_size,
    in_columns,
)
from mmcompress.compression.quantization.rows import by_rows
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import ValueStep
from mmcompress.functional.float8 import LARGEST, from_float8, to_float8
from mmcompress.functional.straight_through import StraightThrough


class FakeFloat8(Parametrization):
    """Parametrization W → e4m3(W / scale) · scale; weights that training drives out are clipped.

    Args:
        weight: its scale is chosen here and stays fixed.
        group_size: columns that share a scale.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, *, group_size: int) -> None:
        super().__init__()
        self.group_size = group_size
        groups = as_matrix(weight).reshape(len(weight), -1, group_size)
        self.register_buffer("scale", as_scale(groups.abs().amax(dim=-1) / LARGEST))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(weight)
        with torch.no_grad():
            (rounded,) = by_rows(self._round, matrix, self.scale)
        return StraightThrough.apply(matrix, rounded).view_as(weight)

    def _round(self, matrix: Tensor, scale: Tensor) -> tuple[Tensor]:
        codes = to_float8(matrix, scale, group_size=self.group_size)
        return (from_float8(codes, scale, group_size=self.group_size),)


class Float8(ValueStep[FakeFloat8]):
    """Weights as 8-bit floats, e4m3.

    Args:
        group_size: columns that share a scale; null for one scale per output channel. Where it does
            not divide the columns of a weight, the largest smaller divisor takes its place. Legal:
            whole number of at least 1, or null.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    no_speedup = "8-bit floats are decoded to float32 before they multiply"

    def __init__(self, *, group_size: int | None = None, **selectors: Any) -> None:
        super().__init__(**selectors)
        check_group_size(group_size)
        self.group_size = group_size

    def check(self, target: Target, weight: Tensor) -> None:
        check_divides(self.group_size, target, weight)

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {
            t.name: {"group_size": in_columns(self.group_size, weights[t.name])} for t in targets
        }

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> FakeFloat8:
        return FakeFloat8(getattr(module, parameter).detach(), **decision)

    def finalize(self, parametrization: FakeFloat8, weight: Tensor) -> Encoding:
        return Encoding(
            values={"codec": "float8", "format": "e4m3", "group_size": parametrization.group_size},
            tensors={"scale": parametrization.scale},
        )
