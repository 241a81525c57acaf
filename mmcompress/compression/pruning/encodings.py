"""How a weight is stored once rows or columns of it are gone."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding


def keep_in_encoding(encoding: Encoding, kept: Sequence[int], dim: int) -> Encoding:
    """The encoding of the weight with only these rows, or columns.

    Args:
        encoding: of the whole weight, a matrix.
        kept: which ones.
        dim: 0 for rows, 1 for columns.
    Raises:
        ValueError: what is stored belongs to groups or blocks of columns.
    """
    mask = None if encoding.mask is None else _take(encoding.mask, kept, dim)
    if mask is not None and mask.all():
        mask = None
    values, tensors = encoding.values, encoding.tensors
    if values is not None:
        values, tensors = _keep_values(values, tensors, kept, dim)
    return dataclasses.replace(encoding, values=values, tensors=tensors, mask=mask)


def _keep_values(
    values: dict[str, Any], tensors: dict[str, Tensor], kept: Sequence[int], dim: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if values["codec"] == "codebook":
        raise ValueError("the entries of its codebook lie across them")
    if dim == 0:
        cut = {name: _take(t, kept, 0) for name, t in tensors.items() if name != "column_scale"}
        return values, tensors | cut
    if tensors["scale"].shape[1] > 1:
        raise ValueError(
            "groups of its columns share a scale; with one scale per row (group_size=null) it "
            "would be made smaller"
        )
    cut = {name: _take(t, kept, 0) for name, t in tensors.items() if name == "column_scale"}
    return values | {"group_size": len(kept)}, tensors | cut


def _take(tensor: Tensor, kept: Sequence[int], dim: int) -> Tensor:
    return tensor.index_select(dim, torch.tensor(list(kept), device=tensor.device))
