"""A linear map beside a block, from its input, that makes up for what the block lacks.

The map hangs on the block as a module named `compensation` whose output a forward hook adds, so
that the block keeps its class, its attributes and the names of its weights.
"""

from typing import Any

import torch
from torch import nn

from mmcompress.modules.anatomy import attention_of, attention_parts
from mmcompress.modules.lowrank import LowRankLinear

NAME = "compensation"


def compensate(block: nn.Module, *, rank: int | None) -> nn.Module:
    """The block with a map that is zero; one that has a map stays as it is.

    Args:
        block: a transformer's, edited in place.
        rank: of the map; None for a full matrix.
    """
    add_compensation(block, _width(block), rank)
    return block


def add_compensation(block: nn.Module, width: int, rank: int | None) -> None:
    """Hang a map that is zero on a module; nothing happens where there is one.

    Args:
        block: gives as many features as it reads, edited in place.
        width: so many.
        rank: of `compensate`.
    """
    if NAME in block._modules:
        return
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
    block.register_forward_hook(_add_output, with_kwargs=True)


def _add_output(
    block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    x = args[0] if args else next(iter(kwargs.values()))
    added = block.get_submodule(NAME)(x)
    if isinstance(output, tuple):
        return output[0] + added, *output[1:]
    return output + added


def _width(block: nn.Module) -> int:
    """Features of a token, in and out."""
    _, attention = attention_of(block)
    parts = attention_parts(attention)
    assert parts is not None
    return attention.get_submodule(parts.q).in_features  # type: ignore[return-value]
