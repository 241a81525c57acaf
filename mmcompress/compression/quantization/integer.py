"""Fixed-point quantisation Q(W): integers of a few bits, and a scale per channel or per group.

Rounding to nearest on a uniform grid; the gradient passes straight through the rounding
(Bengio et al. 2013, arXiv:1308.3432) and is zero where a weight is clipped. The scale is the one,
among shrunken versions of the largest magnitude, that rounds with the least squared error
(the search of Banner et al. 2019, arXiv:1810.05723, by grid).
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from mmcompress.artifact.codecs.quantise import dequantise, quantise
from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import Target
from mmcompress.compression.base import Compressor, Decision, as_matrix
from mmcompress.compression.statistics import Statistic

SHRINK = torch.linspace(1.0, 0.4, 31)
"""Fractions of the full range that the scale search tries."""


def choose_scale(
    weight: Tensor, *, bits: int, group_size: int, symmetric: bool
) -> tuple[Tensor, Tensor | None]:
    """The scale (and zero point) of each group with the least squared rounding error.

    Args:
        weight: (rows, columns).
        bits: width of a code.
        group_size: columns that share a scale; divides the columns.
        symmetric: codes run from −(2^(bits−1) − 1) to 2^(bits−1) − 1 around zero; otherwise from
            0 to 2^bits − 1, with zero on the grid.
    Returns:
        scale (rows, columns / group_size) float16, the precision that is stored; zero point of
        the same shape, uint8, or None when symmetric.
    """
    groups = weight.reshape(len(weight), -1, group_size)
    low, high = groups.amin(dim=-1).clamp(max=0), groups.amax(dim=-1).clamp(min=0)  # R G
    if symmetric:
        full = torch.maximum(-low, high) / (2 ** (bits - 1) - 1)
    else:
        full = (high - low) / (2**bits - 1)
    best_error = torch.full_like(full, torch.inf)
    best_scale = torch.ones_like(full, dtype=torch.float16)
    best_zero = torch.zeros_like(full, dtype=torch.uint8)
    # Below the smallest normal half, a scale would lose its precision or become zero.
    smallest = torch.finfo(torch.float16).smallest_normal
    for shrink in SHRINK.tolist():
        scale = (full * shrink).clamp(smallest, torch.finfo(torch.float16).max).half()
        zero = None
        if not symmetric:
            levels = (-low * shrink / scale.float()).round().clamp(0, 2**bits - 1)
            zero = levels.to(torch.uint8)
        codes = quantise(weight, scale, zero, bits=bits, group_size=group_size)
        rounded = dequantise(codes, scale, zero, group_size=group_size)
        error = (rounded - weight).square().reshape(groups.shape).sum(dim=-1)
        better = error < best_error
        best_error = torch.where(better, error, best_error)
        best_scale = torch.where(better, scale, best_scale)
        if zero is not None:
            best_zero = torch.where(better, zero, best_zero)
    return best_scale, None if symmetric else best_zero


class FakeQuantize(nn.Module):
    """Parametrisation W → Q(W), straight through for weights inside the range.

    Args:
        weight: its scale is chosen here and stays fixed.
        bits, group_size, symmetric: as in `choose_scale`.
    """

    scale: Tensor
    zero_point: Tensor | None

    def __init__(self, weight: Tensor, *, bits: int, group_size: int, symmetric: bool) -> None:
        super().__init__()
        self.bits, self.group_size, self.symmetric = bits, group_size, symmetric
        scale, zero_point = choose_scale(
            as_matrix(weight), bits=bits, group_size=group_size, symmetric=symmetric
        )
        self.register_buffer("scale", scale)
        self.register_buffer("zero_point", zero_point)

    def forward(self, weight: Tensor) -> Tensor:
        matrix = as_matrix(weight)
        with torch.no_grad():
            codes = quantise(
                matrix, self.scale, self.zero_point, bits=self.bits, group_size=self.group_size
            )
            rounded = dequantise(codes, self.scale, self.zero_point, group_size=self.group_size)
            step = self.scale.float().repeat_interleave(self.group_size, dim=1)
            clipped = (rounded - matrix).abs() > step  # R C
        # The forward value is `rounded` to the last bit: matrix − matrix is exactly zero.
        passed = torch.where(clipped, matrix.detach(), matrix)
        return (rounded + (passed - passed.detach())).view_as(weight)


class Integer(Compressor):
    """Quantise weights to integers.

    Args:
        bits: 2 to 8.
        group_size: columns that share a scale; None for one scale per output channel.
        symmetric: no zero point.
        **selectors: `modality`, `role`, `granularity`.
    """

    stage = "values"
    granularities = ("linear", "embedding", "conv", "matrix")
    ladder: ClassVar[dict[str, tuple[Any, ...]]] = {"bits": (2, 3, 4, 5, 6, 8)}
    no_speedup = "integer weights are decoded to float32 before they multiply"

    def __init__(
        self,
        *,
        bits: int,
        group_size: int | None = None,
        symmetric: bool = True,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        if not isinstance(bits, int) or not 2 <= bits <= 8:
            raise ValueError(f"bits={bits} must be a whole number from 2 to 8")
        if group_size is not None and (not isinstance(group_size, int) or group_size < 1):
            raise ValueError(f"group_size={group_size} must be a positive whole number, or null")
        self.bits, self.group_size, self.symmetric = bits, group_size, symmetric

    def check(self, target: Target, weight: Tensor) -> None:
        columns = as_matrix(weight).shape[1]
        if self.group_size is not None and columns % self.group_size:
            raise ValueError(
                f"group_size={self.group_size} does not divide the {columns} columns of "
                f"{target.name}: choose a divisor, or null for one scale per channel"
            )

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {
            t.name: {
                "bits": self.bits,
                "group_size": self.group_size or as_matrix(weights[t.name]).shape[1],
                "symmetric": self.symmetric,
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
    ) -> nn.Module:
        return FakeQuantize(getattr(module, parameter).detach(), **decision)

    def finalize(self, parametrization: nn.Module, weight: Tensor) -> Encoding:
        fake = cast(FakeQuantize, parametrization)
        tensors = {"scale": fake.scale}
        if fake.zero_point is not None:
            tensors["zero_point"] = fake.zero_point
        return Encoding(
            values={"codec": "quantise", "bits": fake.bits, "group_size": fake.group_size},
            tensors=tensors,
        )
