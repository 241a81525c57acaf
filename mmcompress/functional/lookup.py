"""Indices → floats through a table of shared entries, W = W_s[I].

The way back is a method's own: entries may coincide, so an assignment cannot be read off the
floats, and the method hands its indices over as they are.
"""

from collections.abc import Sequence

from torch import Tensor


def lookup(
    indices: Tensor, codebook: Tensor, shape: Sequence[int], scale: Tensor | None = None
) -> Tensor:
    """Each run of `block_size` neighbors in a row is one entry of the codebook.

    Args:
        indices: (blocks,) int32 or int64, row by row.
        codebook: (entries, block_size), float16 or float32; gets a gradient where it wants one.
        shape: of the weight, blocks · block_size elements.
        scale: (rows, groups), float16 or float32, a factor on each of as many equal parts of a row;
            None for none.
    Returns:
        `shape`, float32.
    Raises:
        IndexError: an index points past the last entry.

    Example:
        >>> import torch
        >>> codebook = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> lookup(torch.tensor([1, 0, 0, 0]), codebook, (2, 4)).tolist()
        [[3.0, 4.0, 1.0, 2.0], [1.0, 2.0, 1.0, 2.0]]
    """
    table = codebook.float()
    # Not `embedding`, whose gradient takes many times as long where many places read few entries.
    entries = (table.flatten() if table.shape[1] == 1 else table).index_select(0, indices)
    if scale is None:
        return entries.reshape(tuple(shape))
    return (entries.reshape(*scale.shape, -1) * scale.float().unsqueeze(-1)).reshape(tuple(shape))
