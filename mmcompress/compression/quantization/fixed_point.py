"""Fixed point Qm.n: sign, m bits before the binary point, n bits after it; no scale but 2^−n.

Such weights multiply by shifts and integer sums alone. Codes run from −(2^(m+n) − 1) to
2^(m+n) − 1, in steps of 2^−n, for a whole tensor. Where n is not given it is the one with the least
squared rounding error, which weighs clipping against rounding: "Fixed Point Quantization of Deep
Convolutional Networks", Lin et al. 2016, arXiv:1511.06393, chooses steps by the same measure, from
the distribution that weights are taken to have instead of the weights.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import Decision, as_matrix
from mmcompress.compression.quantization.fake_quantize import FakeQuantize
from mmcompress.compression.quantization.grid import Grid, check_bits
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import ValueStep

FINER = 3
"""Bits by which the search goes beyond the finest step that holds the largest weight."""

FINEST = 24
"""Largest n: 2^−24 is the smallest float16. A step above the largest is stored in float32."""


def choose_fraction(weight: Tensor, bits: int) -> int:
    """The n of Qm.n with the least squared rounding error.

    Args:
        weight: any shape.
        bits: 1 + m + n; m may be negative, which leaves out leading zeros.
    Returns:
        n, at most `FINEST`; it may be negative.

    Example:
        >>> choose_fraction(torch.tensor([0.5, -0.25, 1.75]), 4)
        2
    """
    top = 2 ** (bits - 1) - 1
    largest = float(weight.abs().max())
    holds = math.floor(math.log2(top / largest)) if largest else FINEST
    errors = {}
    for n in range(min(holds, FINEST), min(holds + FINER, FINEST) + 1):
        rounded = (weight * 2.0**n).round_().clamp_(-top, top).mul_(2.0**-n)
        errors[n] = float((rounded - weight).square().sum())
    return min(errors, key=errors.__getitem__)


class FixedPoint(ValueStep):
    """Weights in fixed point, Qm.n.

    Args:
        bits: width 1 + m + n of a code. Legal: whole number from 2 to 8.
        fraction: n, the same for all weights; null chooses it for each. m is what is left. Legal:
            whole number from 0 to 24, or null.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"bits": (3, 4, 5, 6, 8)}
    no_speedup = "fixed-point weights are decoded to float32 before they multiply"

    def __init__(self, *, bits: int, fraction: int | None = None, **selectors: Any) -> None:
        super().__init__(**selectors)
        check_bits(bits)
        if fraction is not None and (not isinstance(fraction, int) or not 0 <= fraction <= FINEST):
            raise ValueError(
                f"fraction={fraction} must be a whole number from 0 to {FINEST}, or null"
            )
        self.bits, self.fraction = bits, fraction

    def varied(self, **changes: Any) -> Self:
        if "bits" in changes:
            changes["fraction"] = None
        return super().varied(**changes)

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {t.name: self._decide(weights[t.name]) for t in targets}

    def _decide(self, weight: Tensor) -> Decision:
        fraction = self.fraction
        if fraction is None:
            fraction = choose_fraction(weight, self.bits)
        return {"bits": self.bits, "fraction": fraction}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        matrix = as_matrix(getattr(module, parameter).detach())
        step = torch.full_like(matrix[:, :1], 2.0 ** -decision["fraction"])
        return FakeQuantize(Grid(decision["bits"], matrix.shape[1]), step)

    def finalize(self, parametrization: nn.Module, weight: Tensor) -> Encoding:
        assert isinstance(parametrization, FakeQuantize)
        return parametrization.encoding(weight)
