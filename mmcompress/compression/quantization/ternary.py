"""Ternary weights, W ≈ α T with T in {−1, 0, 1}: a scale per channel, group or tensor.

* `twn`: "Ternary Weight Networks", Li & Liu 2016, arXiv:1605.04711, section 2.2: what lies below
  Δ = 0.7 mean |W| becomes zero, α is the mean magnitude of the rest.
* `absmean`: "The Era of 1-bit LLMs: All Large Language Models are in 1.58 Bits", Ma et al. 2024,
  arXiv:2402.17764, eq. 1 to 3: α = mean |W|, and W / α rounds to the nearest of the three.

Both are computed anew from the trained weight in each step, and the gradient passes straight
through. Where we differ: the paper on 1.58 bits rounds inputs to 8 bits too, which is a step of its
own here (`activations.py`). Weights that an earlier mask has made zero do not count in the means.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import Decision, Parametrization, as_matrix
from mmcompress.compression.quantization.grid import (
    TENSOR,
    Grid,
    GroupSize,
    as_scale,
    check_divides,
    check_group_size,
    in_columns,
)
from mmcompress.compression.quantization.rows import by_rows
from mmcompress.compression.quantization.scales import mean_magnitude
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import ValueStep
from mmcompress.functional.straight_through import StraightThrough

THRESHOLD = 0.7
"""Δ in units of mean |W| (arXiv:1605.04711, section 2.2)."""

Rule = Literal["twn", "absmean"]
RULES = ("twn", "absmean")


def ternarize(
    matrix: Tensor, rule: Rule, *, group_size: int, per_tensor: bool = False
) -> tuple[Tensor, Tensor]:
    """Nearest ternary weights by one of the two rules.

    Args:
        matrix: (rows, columns).
        rule: `twn` or `absmean`.
        group_size: columns that share α.
        per_tensor: one α for everything.
    Returns:
        α T (rows, columns) float32, and α (rows, columns / group_size) float16.

    Example:
        >>> ternarize(torch.tensor([[0.5, -1.5, 2.0, 0.0]]), "twn", group_size=4)[0].tolist()
        [[0.0, -1.75, 1.75, 0.0]]
        >>> ternarize(torch.tensor([[0.5, -1.5, 2.5, 0.0]]), "absmean", group_size=4)[0].tolist()
        [[0.0, -1.5, 1.5, 0.0]]
    """
    mean = mean_magnitude(matrix, group_size=group_size, per_tensor=per_tensor)  # R G
    if rule == "absmean":
        scale = as_scale(mean)
        return by_rows(lambda rows, of: (Grid(2, group_size).snap(rows, of),), matrix, scale)[
            0
        ], scale
    threshold = THRESHOLD * mean

    def codes(matrix: Tensor, threshold: Tensor) -> Tensor:
        groups = matrix.reshape(*threshold.shape, -1)
        return groups.sign().mul_(groups.abs().gt_(threshold[..., None]))  # R G group_size

    def totals(matrix: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
        large = codes(matrix, threshold)
        return (matrix.view_as(large) * large).sum(dim=-1), large.square_().sum(dim=-1)

    def values(matrix: Tensor, threshold: Tensor, scale: Tensor) -> tuple[Tensor]:
        found = codes(matrix, threshold).mul_(scale.float()[..., None])
        return (found.view_as(matrix),)

    total, count = by_rows(totals, matrix, threshold)
    if per_tensor:
        total, count = total.sum().expand_as(total), count.sum().expand_as(count)
    scale = as_scale(total / count.clamp(min=1))
    return by_rows(values, matrix, threshold, scale)[0], scale


class Ternarize(Parametrization):
    """Parametrization W → α T.

    Args:
        weight: gives the shape.
        rule, group_size, per_tensor: as in `ternarize`.
    """

    scale: Tensor

    def __init__(self, weight: Tensor, *, rule: Rule, group_size: int, per_tensor: bool) -> None:
        super().__init__()
        self.rule: Rule = rule
        self.group_size, self.per_tensor = group_size, per_tensor
        rows, columns = as_matrix(weight).shape
        # What the last forward pass has used.
        self.register_buffer("scale", weight.new_ones(rows, columns // group_size).half())

    def forward(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(weight)
        with torch.no_grad():
            rounded, self.scale = ternarize(
                matrix, self.rule, group_size=self.group_size, per_tensor=self.per_tensor
            )
        return StraightThrough.apply(matrix, rounded).view_as(weight)


class Ternary(ValueStep[Ternarize]):
    """Weights in {−α, 0, α}.

    Args:
        rule: `twn` has a threshold of 0.7 mean |W|, `absmean` is BitNet b1.58. Legal: `twn` or
            `absmean`.
        group_size: columns that share α; null for one α per output channel, `tensor` for one in
            all. Where it does not divide the columns of a weight, the largest smaller divisor takes
            its place. Legal: whole number of at least 1, `tensor` or null.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    no_speedup = "ternary weights are decoded to float32 before they multiply"

    def __init__(
        self, *, rule: Rule = "twn", group_size: GroupSize = None, **selectors: Any
    ) -> None:
        super().__init__(**selectors)
        if rule not in RULES:
            raise ValueError(f"rule={rule!r} must be one of {', '.join(RULES)}")
        check_group_size(group_size, tensor=True)
        self.rule: Rule = rule
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
            t.name: {
                "rule": self.rule,
                "group_size": in_columns(self.group_size, weights[t.name]),
                "per_tensor": self.group_size == TENSOR,
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
    ) -> Ternarize:
        return Ternarize(getattr(module, parameter).detach(), **decision)

    def finalize(self, parametrization: Ternarize, weight: Tensor) -> Encoding:
        return Grid(2, parametrization.group_size).encoding(weight, scale=parametrization.scale)
