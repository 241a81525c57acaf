"""NF4: 4-bit codes whose levels are quantiles of a normal distribution.

"QLoRA: Efficient Finetuning of Quantized LLMs", Dettmers et al. 2023, arXiv:2305.14314, section 3.
Where we differ: scales are float16 and are not quantized again.
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
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import ValueStep
from mmcompress.functional.straight_through import StraightThrough

OFFSET = 0.9677083  # the authors' outermost quantile


def normal_levels() -> Tensor:
    """The 16 levels in ascending order, float16: 7 negative ones, zero, 8 positive ones."""
    high = torch.special.ndtri(torch.linspace(OFFSET, 0.5, 9)[:-1])
    low = -torch.special.ndtri(torch.linspace(OFFSET, 0.5, 8)[:-1])
    return (torch.cat([low, torch.zeros(1), high.flip(0)]) / high.max()).half()


class FakeNF4(Parametrization):
    """Parametrization W → nearest level · scale.

    Args:
        weight: the largest magnitude of each group gives its scale, which stays.
        group_size: columns that share a scale.
    """

    scale: Tensor
    levels: Tensor

    def __init__(self, weight: Tensor, *, group_size: int) -> None:
        super().__init__()
        groups = as_matrix(weight).reshape(len(weight), -1, group_size)
        self.register_buffer("scale", as_scale(groups.abs().amax(dim=-1)))  # R G
        self.register_buffer("levels", normal_levels())

    def indices(self, weight: Tensor) -> Tensor:
        """The nearest level of each weight, (rows, columns) int64."""
        scale = self.scale.float()[..., None]
        groups = as_matrix(weight).reshape(*self.scale.shape, -1) / scale.where(scale > 0, 1.0)
        levels = self.levels.float()
        return torch.bucketize(groups, (levels[1:] + levels[:-1]) / 2).view(len(weight), -1)

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            groups = self.levels.float()[self.indices(weight)].view(*self.scale.shape, -1)
            rounded = groups * self.scale.float()[..., None]
        return StraightThrough.apply(weight, rounded)


class NF4(ValueStep[FakeNF4]):
    """Weights on 16 levels that suit normally distributed weights.

    Args:
        group_size: columns that share a scale; null for one scale per output channel. Legal: whole
            number of at least 1, or null.
        **selectors: `modality`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    no_speedup = "codes are decoded to float32 before they multiply"

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
    ) -> FakeNF4:
        return FakeNF4(getattr(module, parameter).detach(), **decision)

    def finalize(self, parametrization: FakeNF4, weight: Tensor) -> Encoding:
        return Encoding(
            values={
                "codec": "codebook",
                "group_size": weight[0].numel() // parametrization.scale.shape[1],
            },
            tensors={
                "indices": parametrization.indices(weight).flatten(),
                "codebook": parametrization.levels[:, None],
                "scale": parametrization.scale,
            },
        )
