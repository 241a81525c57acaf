"""Entropy-constrained quantization Q(W): a uniform grid whose codes are meant to be entropy coded.

With an entropy coder behind it, what a code costs is its information and not its width, so the
grid needs no bound: one step for a whole tensor, as many levels as its weights reach, and most
codes zero. At low rates such a quantizer with a widened zero cell comes close to the
rate-distortion bound of a memoryless source ("Optimum quantizer performance for a class of
non-Gaussian memoryless sources", Farvardin & Modestino 1984; Sullivan 1996); for networks:
"DeepCABAC", Wiedemann et al. 2019, arXiv:1907.11900. Where we differ: the decision which code a
weight gets is the dead zone and, with `error_feedback`, GPTQ's update of the columns that are still
to come (arXiv:2210.17323, section 3.3) instead of a search along the coder's context.

While training, weights pass the rounding straight through, the step is trained with them (its
gradient is that of "Learned Step Size Quantization", Esser et al. 2020, arXiv:1902.08153, eq. 3,
without clipping), and `rate` presses on the information: a Laplacian source of mean magnitude b
(in steps) carries log2(2 e b) bits per code, of which log2 b depends on the weights.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import WEIGHTS, Target
from mmcompress.compression.base import (
    Applied,
    Decision,
    Parametrization,
    as_matrix,
    kept_mask,
)
from mmcompress.compression.statistics import INPUTS, Statistic
from mmcompress.compression.steps import AddsPenalty, ValueStep
from mmcompress.functional.error_feedback import feed_back_errors
from mmcompress.functional.float16 import round_to_float16

LARGEST = 127
"""Largest magnitude of a code: 8 bits."""


def round_with_dead_zone(values: Tensor, rounding: float) -> Tensor:
    """Integers, sign(x) ⌊|x| + rounding⌋, bounded by ±`LARGEST`.

    Args:
        values: in steps, any shape.
        rounding: 0.5 rounds to nearest; less widens the cell of zero and shifts all others.

    Example:
        >>> round_with_dead_zone(torch.tensor([-1.7, -0.6, 0.6, 0.9, 2.4]), 0.3).int().tolist()
        [-2, 0, 0, 1, 2]
    """
    magnitudes = (values.abs() + rounding).floor().clamp(max=LARGEST)
    return magnitudes * values.sign()


def round_with_feedback(
    weight: Tensor, scale: Tensor, factor: Tensor, *, rounding: float
) -> Tensor:
    """Round column by column; each column's error is made up for by the columns after it.

    Args:
        weight: (rows, columns).
        scale: (rows, 1) or (1, 1), the step.
        factor: (columns, columns), upper Cholesky factor of the inverse Hessian.
        rounding: as in `round_with_dead_zone`.
    Returns:
        (rows, columns), on the grid. What was exactly zero, as pruning leaves it, stays zero.
    """
    columns, kept = weight.T.contiguous(), kept_mask(weight).T.contiguous()
    steps = scale[:, 0]  # rows or 1

    def rounded(j: int) -> Tensor:
        column = columns[j].mul_(kept[j])  # what drifted off zero is put back, not made up for
        return round_with_dead_zone(column / steps, rounding) * steps

    feed_back_errors(columns, factor, rounded)
    return columns.T.contiguous()


class EntropyQuantize(Parametrization):
    """Parametrization W → step · round(W / step), the step trained.

    Args:
        weight: its root mean square, zeros left out, is the unit of `step`.
        step: first width of a cell.
        per_row: one step per row instead of one per tensor.
        rounding: as in `round_with_dead_zone`.
        factor: for error feedback, see `round_with_feedback`; None for none.
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        step: float,
        per_row: bool,
        rounding: float,
        factor: Tensor | None = None,
    ) -> None:
        super().__init__()
        matrix = as_matrix(weight)
        squares, kept = matrix.square(), kept_mask(matrix)
        if per_row:
            power = squares.sum(dim=1, keepdim=True) / kept.sum(dim=1, keepdim=True).clamp(min=1)
        else:
            power = (squares.sum() / kept.sum().clamp(min=1)).view(1, 1)
        # Below the smallest normal half, a step would lose its precision or become zero.
        smallest = torch.finfo(torch.float16).smallest_normal
        self.log_step = nn.Parameter((step * power.sqrt()).clamp(min=smallest).log())
        self.rounding = rounding
        if factor is not None:
            with torch.no_grad():
                moved = round_with_feedback(matrix, self.scale(), factor, rounding=rounding)
            self.initial = moved.view_as(weight)

    def scale(self) -> Tensor:
        """(rows, 1) or (1, 1): the step as it is stored, by `round_to_float16`."""
        step = self.log_step.exp()
        return round_to_float16(step.detach()) + (step - step.detach())

    def forward(self, weight: Tensor) -> Tensor:
        scale = self.scale()
        levels = as_matrix(weight) / scale
        codes = round_with_dead_zone(levels.detach(), self.rounding)
        return ((codes + (levels - levels.detach())) * scale).view_as(weight)


class Entropy(ValueStep[EntropyQuantize], AddsPenalty):
    """Weights on a wide uniform grid, whose size is left to the entropy coder.

    Args:
        step: width of a cell in units of the weight's root mean square: about 0.3 for 3.7 bits per
            weight, 1 for 2.1, 2 for 1.2, 2.5 for 0.9. Legal: number above 0.
        per: what shares a step. Legal: `tensor` or `row`.
        rounding: 0.5 rounds to nearest, less makes more zeros. Legal: number in (0, 0.5].
        error_feedback: let later columns make up for the error of earlier ones, by calibration
            inputs; embeddings and bare parameters are rounded without. Legal: true or false.
        rate: weight of the information per code, in bits, in the training loss. Legal: number of at
            least 0.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    granularities = WEIGHTS
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {
        "step": (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.4, 1.8, 2.3, 2.9, 3.6)
    }
    no_speedup = "integer weights are decoded to float32 before they multiply"

    def __init__(
        self,
        *,
        step: float,
        per: Literal["tensor", "row"] = "tensor",
        rounding: float = 0.5,
        error_feedback: bool = False,
        rate: float = 0.0,
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        if step <= 0:
            raise ValueError(f"step={step} must be above 0: it is the width of a cell")
        if per not in ("tensor", "row"):
            raise ValueError(f"per={per!r} must be tensor or row")
        if not 0 < rounding <= 0.5:
            raise ValueError(f"rounding={rounding} must lie in (0, 0.5]: 0.5 is to the nearest")
        if rate < 0:
            raise ValueError(f"rate={rate} must not be negative")
        self.step, self.per, self.rounding = step, per, rounding
        self.error_feedback, self.rate = error_feedback, rate
        self.needs = frozenset({INPUTS} if error_feedback else ())

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        decision = {"step": self.step, "per_row": self.per == "row", "rounding": self.rounding}
        return {t.name: dict(decision) for t in targets}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> EntropyQuantize:
        factor = None
        if statistic is not None and statistic.inputs is not None:
            whole = statistic.inputs.second_moment.ndim == 2  # no embedding
            factor = statistic.inputs.inverse_cholesky() if whole else None
        return EntropyQuantize(getattr(module, parameter).detach(), factor=factor, **decision)

    def penalty(self, applied: Mapping[str, Applied[EntropyQuantize]]) -> Tensor | float:
        if not self.rate or not applied:
            return 0.0
        total, count = torch.zeros(()), 0
        for one in applied.values():
            fake, weight = one.parametrization, one.original
            magnitude = (as_matrix(weight) / fake.scale()).abs().mean()
            total = total + weight.numel() * (magnitude + 1e-6).log2()
            count += weight.numel()
        return self.rate * total / count

    def finalize(self, parametrization: EntropyQuantize, weight: Tensor) -> Encoding:
        matrix = as_matrix(weight)
        scale = parametrization.scale().detach().expand(len(matrix), 1)
        largest = int((matrix / scale).round().abs().max().item())
        bits = max(2, largest.bit_length() + 1)
        return Encoding(
            values={"codec": "quantize", "bits": bits, "group_size": matrix.shape[1]},
            tensors={"scale": scale},
        )
