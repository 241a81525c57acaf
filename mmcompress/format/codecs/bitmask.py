"""Dense array ↔ the values that a mask keeps, and the mask as bits."""

import numpy as np
import torch
from torch import Tensor


def sparsify(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Drop what the mask drops.

    Args:
        values: (n,), any dtype.
        mask: (n,) bool, True = kept.
    Returns:
        Kept values in order, (kept,); the mask as bits, (⌈n / 8⌉,) uint8.

    Example:
        >>> kept, bits = sparsify(torch.tensor([5, 6, 7]), torch.tensor([True, False, True]))
        >>> kept.tolist(), bits.tolist()
        ([5, 7], [5])
    """
    return values[mask], pack_mask(mask)


def densify(kept: Tensor, mask: Tensor) -> Tensor:
    """Put kept values back in their places; the others are 0.

    Args:
        kept: (kept,).
        mask: (n,) bool, with as many True as there are values.
    Returns:
        (n,), dtype of `kept`.
    Raises:
        ValueError: the mask does not keep that many.
    """
    count = int(mask.sum().item())
    if count != len(kept):
        raise ValueError(f"the mask keeps {count} values and there are {len(kept)}")
    values = kept.new_zeros(len(mask))
    values[mask] = kept
    return values


def pack_mask(mask: Tensor) -> Tensor:
    """(n,) bool → (⌈n / 8⌉,) uint8; bit j of byte i is mask 8i + j, unused bits are 0."""
    return torch.from_numpy(np.packbits(mask.numpy(), bitorder="little"))


def unpack_mask(packed: Tensor, count: int) -> Tensor:
    """The inverse of `pack_mask`: (count,) bool.

    Raises:
        ValueError: an unused bit is set: these bytes are not ours.
    """
    bits = np.unpackbits(packed.numpy(), bitorder="little")
    if bits[count:].any():
        raise ValueError("unused bits of a mask are set")
    return torch.from_numpy(bits[:count].astype(bool))


def to_symbols(mask: Tensor, width: int) -> Tensor:
    """(n,) bool → (n / width,) int32; bit j of symbol i is mask `width` · i + j.

    N of M neighbours that are kept leave few symbols of M bits.
    """
    weights = 1 << torch.arange(width, dtype=torch.int32)
    return (mask.view(-1, width) * weights).sum(dim=1, dtype=torch.int32)


def from_symbols(symbols: Tensor, width: int) -> Tensor:
    """The inverse of `to_symbols`."""
    return (symbols[:, None] >> torch.arange(width, dtype=torch.int32) & 1).flatten().bool()
