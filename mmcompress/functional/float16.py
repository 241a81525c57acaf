"""Rounding to float16, where float16 can hold the values."""

from torch import Tensor


def fits_float16(values: Tensor) -> bool:
    """Whether float16 can stand for float values: it rounds them, and does nothing worse.

    False where a finite value becomes infinite (from 65,520 on), and where values that are not
    all zero become so (below 3e-8).

    Example:
        >>> import torch
        >>> [fits_float16(torch.tensor([x])) for x in (65504.0, 7e4, 0.0, 1e-9, -torch.inf)]
        [True, False, True, False, True]
    """
    half = values.half()
    overflows = bool((half.isinf() & values.isfinite()).any())
    return not overflows and (bool(half.any()) or not bool(values.any()))


def round_to_float16(values: Tensor) -> Tensor:
    """Float32 values rounded to those of float16; unchanged where float16 cannot hold them."""
    return values.half().to(values.dtype) if fits_float16(values) else values
