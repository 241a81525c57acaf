"""Blocks that share their weights, within a tower and between two."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn

from mmcompress.modules.anatomy import attention_of, attention_parts
from mmcompress.modules.shared import Initial, Transform, merged, share_linear
from mmcompress.modules.tree import replace_module


def share_blocks(
    stack: nn.Module,
    *,
    groups: Sequence[Sequence[int]],
    transform: Transform | Literal["none"],
    initial: Initial = "first",
) -> nn.Module:
    """The stack, in which the blocks of each group share their weights.

    Args:
        groups: numbers of blocks, from 0.
        transform: what each block keeps for itself; `none`: the blocks of a group are one.
        initial: what the shared weights start from.
    """
    assert isinstance(stack, nn.ModuleList | nn.Sequential), stack
    for group in groups:
        blocks = list({id(stack[i]): stack[i] for i in group}.values())
        if transform == "none":
            _share_all(blocks, initial)
            for index in group:
                stack[index] = blocks[0]
        else:
            _share_linears(blocks, transform, initial)
    return stack


def share_towers(
    model: nn.Module,
    *,
    stacks: Sequence[str],
    pairs: Sequence[Sequence[int]],
    layers: Sequence[str],
    transform: Transform,
    initial: Initial = "first",
) -> nn.Module:
    """The model, in which paired blocks of two towers share linear layers.

    Args:
        stacks: paths of the two lists of blocks.
        pairs: number of a block in the one and in the other.
        layers: paths inside a block.
        transform: what each tower keeps for itself.
        initial: what the shared weights start from.
    """
    for pair in pairs:
        places = [f"{stack}.{index}" for stack, index in zip(stacks, pair, strict=True)]
        for layer in layers:
            paths = [f"{place}.{layer}" for place in places]
            found = [model.get_submodule(path) for path in paths]
            if found[0] is found[1]:  # an earlier step has shared blocks of one tower
                continue
            linears = [linear for linear in found if isinstance(linear, nn.Linear)]
            assert len(linears) == len(found), f"{paths} are not linear"
            shared = share_linear(linears, transform=transform, initial=initial)
            for path, new in zip(paths, shared, strict=True):
                replace_module(model, path, new)
    return model


@torch.no_grad()
def _share_all(blocks: Sequence[nn.Module], initial: Initial) -> None:
    for parameters in zip(*(block.parameters() for block in blocks), strict=True):
        parameters[0].copy_(merged(parameters, initial))


def _share_linears(blocks: Sequence[nn.Module], transform: Transform, initial: Initial) -> None:
    heads = _heads(blocks[0]) if transform == "heads" else {}
    paths = [path for path, m in blocks[0].named_modules() if isinstance(m, nn.Linear)]
    for path in paths:
        layers = [cast(nn.Linear, block.get_submodule(path)) for block in blocks]
        shared = share_linear(layers, transform=transform, initial=initial, heads=heads.get(path))
        for block, new in zip(blocks, shared, strict=True):
            block.set_submodule(path, new)


def _heads(block: nn.Module) -> dict[str, int]:
    """Path of q, k and v in a block → how many heads there are."""
    path, attention = attention_of(block)
    parts = attention_parts(attention)
    assert parts is not None
    heads = getattr(attention, parts.heads)
    return {f"{path}.{name}": heads for name in (parts.q, parts.k, parts.v)}
