"""A linear map beside a block, whose output is added to the block's own.

The block keeps its class, its attributes and the names of its weights: the map is a module of it
named `compensation`, and a forward hook adds what it gives.
"""

from typing import Any

import torch
from torch import nn

from mmcompress.modules.anatomy import attention_of, attention_parts
from mmcompress.modules.lowrank import LowRankLinear

NAME = "compensation"


def compensate(block: nn.Module, *, rank: int | None, width: int | None = None) -> nn.Module:
    """The block with a map that is zero hung on it; a block that has one stays as it is.

    Args:
        rank: of the map; None for a full matrix.
        width: features of a token; None for what the block's attention reads.
    """
    if NAME in block._modules:
        return block
    width = width or _width(block)
    like = next(block.parameters())
    linear = nn.Linear(width, width, dtype=like.dtype, device=like.device)
    added: nn.Linear | LowRankLinear = linear
    if rank is not None and 2 * rank < width:
        added = LowRankLinear(linear, rank)
        start = torch.eye(rank, width, dtype=like.dtype, device=like.device)
        added.set_factors(torch.zeros_like(start.T), start)
    else:
        nn.init.zeros_(linear.weight)
    if added.bias is not None:
        nn.init.zeros_(added.bias)
    block.add_module(NAME, added)
    block.register_forward_hook(_add_compensation, with_kwargs=True)
    return block


def _add_compensation(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    x = args[0] if args else next(iter(kwargs.values()))
    added = block.get_submodule(NAME)(x)
    if isinstance(output, tuple):
        return output[0] + added, *output[1:]
    return output + added


def _width(block: nn.Module) -> int:
    """Features of a token, in and out."""
    name, attention = attention_of(block)
    parts = attention_parts(attention)
    assert parts is not None, name
    return attention.get_submodule(parts.q).in_features  # type: ignore[return-value]
