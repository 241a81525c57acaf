"""How a tower calls its blocks, so that they can be run one at a time, beside the dense ones."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.passes import Batch
from mmcompress.modules.anatomy import Stack, find_stacks
from mmcompress.modules.replace import answering


@dataclass
class Call:
    """How a block is called on one batch.

    Attributes:
        hidden: its first argument, (B, T, D).
        args, kwargs: the others (masks), as the tower passes them.
    """

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, block: nn.Module) -> Tensor:
        """The block's output, (B, T, D)."""
        return block(self.hidden, *self.args, **self.kwargs)


@torch.no_grad()
def block_calls(
    backbone: Backbone, stack: Stack, modality: str, batches: Sequence[Batch]
) -> list[Call]:
    """How the first block of a tower is called on each batch; later ones get the output before
    them in place of `hidden`, and all else alike.

    Args:
        backbone: evaluation mode, or its dropout counts.
        stack: the tower's blocks.
        modality: of the tower.
        batches: calibration data.
    """
    calls: list[Call] = []

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(Call(args[0], args[1:], kwargs))

    handle = stack[0].register_forward_pre_hook(hook, with_kwargs=True)
    try:
        with answering(stack, lambda hidden, *_, **__: hidden):  # only the input is asked for
            for batch in batches:
                backbone.pass_of(modality).run(batch)
    finally:
        handle.remove()
    return calls


def paired_stacks(
    backbone: Backbone, dense: Backbone, *, asks: str, fix: str, own_weights: bool = False
) -> Iterator[tuple[str, Stack, Stack]]:
    """Path and blocks of each tower, compressed and dense; not those behind the towers.

    Args:
        backbone, dense: the compressed model, and what it was made of.
        asks, fix: who needs the pairs, and what helps when there are none; for the message.
        own_weights: whether blocks that share a weight are refused too.
    Raises:
        ValueError: blocks were removed, or one stands in several places.
    """
    dense_stacks = dict(find_stacks(dense.model))
    for path, ours in find_stacks(backbone.model):
        if backbone.modality_of(f"{path}.") not in backbone.modalities:
            continue
        theirs = dense_stacks[path]
        parts = [
            part for block in ours for part in (block.parameters() if own_weights else [block])
        ]
        if len(ours) != len(theirs) or len(parts) != len({id(part) for part in parts}):
            raise ValueError(
                f"{asks} needs a block of its own for each dense block, and {path} has removed or "
                f"shared some: {fix}"
            )
        yield path, ours, theirs
