"""Binary weights, W ≈ α sign(W): one bit, and a scale per channel, group or tensor.

"XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks", Rastegari et al.
2016, arXiv:1603.05279: α = mean |W| is the best scale in the least-squares sense (eq. 6), computed
anew from the trained weight in each step. Where we differ: the gradient passes straight through the
sign for weights within `CLIP` times α, where the paper, whose weights lie in [−1, 1], cuts at 1; α
may be trained instead; inputs stay floats. Weights that an earlier mask has made zero stay zero and
do not count in α.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import (
    Decision,
    Parametrization,
    as_matrix,
)
from mmcompress.compression.quantization.fake_quantize import to_half
from mmcompress.compression.quantization.grid import (
    TENSOR,
    Grid,
    GroupSize,
    check_divides,
    check_group_size,
    in_columns,
)
from mmcompress.compression.quantization.rows import by_rows
from mmcompress.compression.quantization.scales import mean_magnitude
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import ValueStep

CLIP = 4.0
"""Magnitude, in units of α, beyond which a weight gets no gradient: it is on the right side."""


class ScaledSign(torch.autograd.Function):
    """α sign(w), and 0 where w is 0: straight through for w, exact for α."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, alpha: Tensor) -> Tensor:
        """Args: matrix (rows, columns), alpha (rows, groups)."""
        ctx.save_for_backward(matrix, alpha)

        def signed(matrix: Tensor, alpha: Tensor) -> tuple[Tensor]:
            signs = matrix.reshape(*alpha.shape, -1).sign()
            return (signs.mul_(alpha[..., None]).view_as(matrix),)

        return by_rows(signed, matrix, alpha)[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        def slopes(gradient: Tensor, matrix: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
            groups = matrix.reshape(*alpha.shape, -1)
            upstream = gradient.reshape(groups.shape)
            near = groups.abs().le_(CLIP * alpha[..., None])
            of_alpha = groups.sign().mul_(upstream).sum(dim=-1)
            return (upstream * near).view_as(gradient), of_alpha

        of_weight, of_alpha = by_rows(slopes, gradients[0], *ctx.saved_tensors)
        return of_weight, of_alpha


class Binarize(Parametrization):
    """Parametrization W → α sign(W).

    Args:
        weight: gives the shape, and α to start from when it is trained.
        group_size: columns that share α.
        per_tensor: one α for everything.
        trained_scale: α is a parameter.
    """

    alpha: nn.Parameter | None
    scale: Tensor

    def __init__(
        self, weight: Tensor, *, group_size: int, per_tensor: bool, trained_scale: bool
    ) -> None:
        super().__init__()
        self.group_size, self.per_tensor = group_size, per_tensor
        alpha = mean_magnitude(as_matrix(weight), group_size=group_size, per_tensor=per_tensor)
        self.shape = alpha.shape  # R G
        # One dimension, so that the optimizer does not take it for a matrix that decays.
        start = alpha[:1, 0] if per_tensor else alpha.flatten()
        self.register_parameter("alpha", nn.Parameter(start.clone()) if trained_scale else None)
        # What the last forward pass has used: the distance of the two levels.
        self.register_buffer("scale", 2 * to_half(alpha))

    def forward(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(weight)
        alpha = to_half(self._alpha(matrix))
        self.scale = 2 * alpha.detach()
        return ScaledSign.apply(matrix, alpha).view_as(weight)

    def _alpha(self, matrix: Tensor) -> Tensor:
        if self.alpha is None:
            return mean_magnitude(matrix, group_size=self.group_size, per_tensor=self.per_tensor)
        return self.alpha.expand(self.shape) if self.per_tensor else self.alpha.view(self.shape)


class Binary(ValueStep[Binarize]):
    """Weights of one bit: α sign(W).

    Args:
        group_size: columns that share α; null for one α per output channel, `tensor` for one in
            all. Where it does not divide the columns of a weight, the largest smaller divisor takes
            its place. Legal: whole number of at least 1, `tensor` or null.
        trained_scale: train α instead of computing it from the trained weight. Legal: true or
            false.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    no_speedup = "binary weights are decoded to float32 before they multiply"

    def __init__(
        self, *, group_size: GroupSize = None, trained_scale: bool = False, **selectors: Any
    ) -> None:
        super().__init__(**selectors)
        check_group_size(group_size, tensor=True)
        self.group_size, self.trained_scale = group_size, trained_scale

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
                "group_size": in_columns(self.group_size, weights[t.name]),
                "per_tensor": self.group_size == TENSOR,
                "trained_scale": self.trained_scale,
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
    ) -> Binarize:
        return Binarize(getattr(module, parameter).detach(), **decision)

    def finalize(self, parametrization: Binarize, weight: Tensor) -> Encoding:
        return Grid(1, parametrization.group_size, midrise=True).encoding(
            weight, scale=parametrization.scale
        )
