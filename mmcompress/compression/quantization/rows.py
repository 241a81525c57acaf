"""Work on a large matrix a few rows at a time, so that what is computed in between stays in the
cache: several times faster than whole passes over memory, which each allocate a matrix.

Comparisons in such functions are written in place, `x.abs().le_(1)`, which gives ones and zeros as
floats: PyTorch computes with floats on a CPU about five times as fast as with booleans.
"""

from collections.abc import Callable

from torch import Tensor

CHUNK = 2**18
"""Weights that are worked on at once."""


def by_rows(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """`function(*tensors)`, for a function that treats each row on its own.

    Args:
        function: takes runs of rows of all tensors; returns tensors with as many rows each.
        *tensors: all with the same number of rows, at least one.

    Example:
        >>> import torch
        >>> by_rows(lambda x, y: (x + y, x.sum(dim=1)), torch.ones(3, 2), torch.ones(3, 1))
        (tensor([[2., 2.],
                [2., 2.],
                [2., 2.]]), tensor([2., 2., 2.]))
    """
    count = len(tensors[0])
    size = max(CHUNK // max(tensors[0][0].numel(), 1), 1)
    if size >= count:
        return function(*tensors)
    outputs: tuple[Tensor, ...] = ()
    for start in range(0, count, size):
        results = function(*(tensor[start : start + size] for tensor in tensors))
        outputs = outputs or tuple(r.new_empty(count, *r.shape[1:]) for r in results)
        for output, result in zip(outputs, results, strict=True):
            output[start : start + size] = result
    return outputs
