"""Floats ↔ 8-bit floats with 4 bits of exponent and 3 of mantissa (e4m3), one scale per group.

The format is that of "FP8 Formats for Deep Learning", Micikevicius et al. 2022, arXiv:2209.05433:
no infinities, largest magnitude 448.
"""

import torch
from torch import Tensor

LARGEST = 448.0


def to_float8(weight: Tensor, scale: Tensor, *, group_size: int) -> Tensor:
    """Round `weight / scale` to the nearest e4m3 number; larger magnitudes become 448.

    Args:
        weight: (rows, columns).
        scale: (rows, columns / group_size), above zero.
        group_size: columns that share a scale.
    Returns:
        (rows, columns) uint8, the bit patterns.

    Example:
        >>> to_float8(torch.tensor([[1.0, -2.0]]), torch.ones(1, 1), group_size=2).tolist()
        [[56, 192]]
    """
    groups = weight.float().reshape(len(weight), -1, group_size)
    levels = (groups / scale.float().unsqueeze(-1)).clamp(-LARGEST, LARGEST)
    return levels.to(torch.float8_e4m3fn).view(torch.uint8).reshape(weight.shape)


def from_float8(codes: Tensor, scale: Tensor, *, group_size: int) -> Tensor:
    """The inverse: (rows, columns) float32; differentiable in `scale`.

    Args:
        codes: (rows, columns) uint8, bit patterns.

    Example:
        >>> from_float8(torch.tensor([[56, 192]]).byte(), torch.ones(1, 1), group_size=2).tolist()
        [[1.0, -2.0]]
    """
    values = codes.contiguous().view(torch.float8_e4m3fn).float()
    groups = values.reshape(len(codes), -1, group_size) * scale.float().unsqueeze(-1)
    return groups.reshape(codes.shape)
