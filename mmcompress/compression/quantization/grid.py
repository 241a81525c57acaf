"""Uniform grids: which values a weight may take once bits and scales are fixed."""

import functools
import logging
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import Target
from mmcompress.compression.base import as_matrix, kept_mask
from mmcompress.functional.divisors import largest_divisor
from mmcompress.functional.integers import dequantize, quantize

log = logging.getLogger(__name__)

SMALLEST_GROUP = 16
"""With fewer weights to a scale of 16 bits, scales would take more than a bit per weight."""

SMALLEST_SCALE = torch.finfo(torch.float16).smallest_normal
"""Below it, a scale in half precision would lose its precision or become zero."""

TENSOR = "tensor"

GroupSize = int | str | None
"""Columns that share a scale; None for all of a row, `"tensor"` for all of a weight."""

LARGEST_SCALE = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Grid:
    """What stays fixed while scales are chosen or trained.

    Attributes:
        bits: width of a code.
        group_size: columns that share a scale; divides the columns.
        symmetric: no zero point; codes run from −(2^(bits−1) − 1) to 2^(bits−1) − 1 around zero.
            Otherwise from 0 to 2^bits − 1.
        midrise: all 2^bits levels, half a step off zero (±½, ±1½, …); symmetric only. One bit is
            ±½.
    """

    bits: int
    group_size: int
    symmetric: bool = True
    midrise: bool = False

    @property
    def top(self) -> float:
        """The largest level of a symmetric grid, in units of the scale; the smallest is its
        negative."""
        return 2 ** (self.bits - 1) - (0.5 if self.midrise else 1.0)

    def snap(
        self,
        matrix: Tensor,
        scale: Tensor,
        zero_point: Tensor | None = None,
        column_scale: Tensor | None = None,
    ) -> Tensor:
        """The nearest grid value of each weight, bit for bit what a stored code decodes to.

        Args:
            matrix: (rows, columns).
            scale: (rows, columns / group_size), float16 as it is stored.
            zero_point: shape of `scale`, where the grid has one.
            column_scale: (columns,), or None.
        Returns:
            (rows, columns) float32.
        """
        options: dict[str, Any] = {
            "group_size": self.group_size,
            "midrise": self.midrise,
            "column_scale": column_scale,
        }
        codes = quantize(matrix, scale, zero_point, bits=self.bits, **options)
        return dequantize(codes, scale, zero_point, **options)

    def nearest(self, values: Tensor, step: Tensor, points: Tensor | None = None) -> Tensor:
        """`snap` to the last bit, without codes in between: several times faster.

        Args:
            values: any shape.
            step: scale, float32, broadcastable to `values`.
            points: zero point, float32, broadcastable to `values`.
        """
        return self.nearest_levels_(values / step, points).mul_(step)

    def nearest_levels_(self, levels: Tensor, points: Tensor | None = None) -> Tensor:
        """Round weights in units of their scale, in place; `points` as in `nearest`."""
        if points is not None:
            return levels.add_(points).round_().clamp_(0, 2**self.bits - 1).sub_(points)
        if self.midrise:
            return levels.sub_(0.5).round_().add_(0.5).clamp_(-self.top, self.top)
        return levels.round_().clamp_(-self.top, self.top)

    def holds_zero(self, zero_point: Tensor | None) -> bool:
        """Whether 0.0 is one of the levels."""
        return not self.midrise and (zero_point is None or not zero_point.is_floating_point())

    def grouped(self, matrix: Tensor) -> Tensor:
        """(rows, columns) → (rows, groups, group_size), a view where possible."""
        return matrix.reshape(len(matrix), -1, self.group_size)

    def encoding(self, weight: Tensor, **sides: Tensor | None) -> Encoding:
        """How a baked weight on this grid is stored.

        Args:
            weight: baked. Where it is zero and the grid need not hold zero, a mask says so.
            **sides: `scale`, `zero_point`, `column_scale`.
        """
        values: dict[str, Any] = {
            "codec": "quantize",
            "bits": self.bits,
            "group_size": self.group_size,
        }
        if self.midrise:
            values["grid"] = "midrise"
        tensors = {name: tensor.detach() for name, tensor in sides.items() if tensor is not None}
        mask = None if self.holds_zero(tensors.get("zero_point")) else mask_of(weight)
        return Encoding(values=values, tensors=tensors, mask=mask)

    def decision(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def mask_of(weight: Tensor) -> Tensor | None:
    """Where a weight is not zero; None when it nowhere is zero."""
    kept = kept_mask(weight)
    return None if kept.all() else kept


def as_scale(values: Tensor) -> Tensor:
    """As the scales that are stored: float16, neither zero nor infinite."""
    return values.clamp(SMALLEST_SCALE, LARGEST_SCALE).half()


def check_bits(bits: int, low: int = 2, high: int = 8) -> None:
    """Refuse a width that is no whole number of `low` to `high` bits.

    Args:
        bits: the setting.
        low, high: the smallest and the largest width.
    Raises:
        ValueError: names the setting and its range.
    """
    if not isinstance(bits, int) or not low <= bits <= high:
        raise ValueError(f"bits={bits} must be a whole number from {low} to {high}")


def check_group_size(group_size: GroupSize, *, tensor: bool = False) -> None:
    """Refuse a group size that no weight could fit.

    Args:
        group_size: the setting.
        tensor: whether `tensor` is a value that it may have.
    Raises:
        ValueError: names the setting and what it may be.
    """
    whole = isinstance(group_size, int) and group_size >= 1
    if not (whole or group_size is None or (tensor and group_size == TENSOR)):
        words = "tensor or null" if tensor else "or null"
        raise ValueError(f"group_size={group_size} must be a positive whole number, {words}")


def check_divides(group_size: GroupSize, target: Target, weight: Tensor) -> None:
    """Refuse a group size that `in_columns` cannot fit to a weight.

    Args:
        group_size: the setting.
        target: names the weight in the error.
        weight: as a matrix it gives the columns.
    Raises:
        ValueError: neither it nor a smaller one of at least `SMALLEST_GROUP` divides the columns.
    """
    columns = as_matrix(weight).shape[1]
    if not isinstance(group_size, int):
        return
    if _fitted(group_size, columns) < min(columns, group_size, SMALLEST_GROUP):
        raise ValueError(
            f"group_size={group_size} does not divide the {columns} columns of {target.name}, nor "
            f"does any smaller one of at least {SMALLEST_GROUP}: choose a divisor, or null for one "
            "scale per channel"
        )


def in_columns(group_size: GroupSize, weight: Tensor) -> int:
    """How many columns of a weight share a scale.

    All columns where the setting is null, `tensor` or larger than that. Otherwise the largest
    divisor of the columns up to the setting: an MLP of 4304 columns has no even groups of 64. Where
    such groups would be too small, as 7 of the 49 weights of a kernel, all columns if these are
    fewer than two groups.

    Args:
        group_size: the setting.
        weight: as a matrix it gives the columns.
    """
    columns = as_matrix(weight).shape[1]
    if not isinstance(group_size, int):
        return columns
    fitted = _fitted(group_size, columns)
    if fitted != group_size:
        _tell_fitted(group_size, columns, fitted)
    return fitted


def _fitted(group_size: int, columns: int) -> int:
    """The divisor of `columns` that `in_columns` takes."""
    largest = min(columns, group_size)
    fitted = largest_divisor(columns, group_size)
    if fitted < min(largest, SMALLEST_GROUP) and columns < 2 * group_size:
        fitted = columns
    return fitted


@functools.cache
def _tell_fitted(group_size: int, columns: int, fitted: int) -> None:
    """Once, and where groups are made: `check_divides` may still refuse them before."""
    log.warning("group_size=%d does not divide %d columns: %d there", group_size, columns, fitted)


def check_midrise(midrise: bool, symmetric: bool) -> None:
    """Refuse the one pair of settings that names no grid: `midrise` without `symmetric`.

    Args:
        midrise, symmetric: the settings.
    Raises:
        ValueError: names both.
    """
    if midrise and not symmetric:
        raise ValueError(
            "midrise=true with symmetric=false: levels half a step off zero have no zero point; "
            "set symmetric=true"
        )
