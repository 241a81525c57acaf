"""The gradient of rounding passes straight through (Bengio et al. 2013, arXiv:1308.3432)."""

from typing import Any

import torch
from torch import Tensor


class StraightThrough(torch.autograd.Function):
    """Take `rounded` forward, and hand its gradient to `weight`."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, rounded: Tensor) -> Tensor:
        return rounded.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None
