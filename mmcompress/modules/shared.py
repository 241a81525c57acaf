"""Layers and blocks whose weights stand in several places of a model."""

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn

from mmcompress.modules.anatomy import attention_parts, attentions_of, heads_in
from mmcompress.modules.replace import replace_module

Initial = Literal["mean", "first"]
INITIALS = ("mean", "first")

Transform = Literal["norms", "scale", "heads"]


class SharedLinear(nn.Module):
    """y = s ⊙ T(W x) + b: W is shared, s, T and b belong to one place.

    Args:
        shared: holds W, without a bias.
        own: the layer that it replaces here: gives the bias, and s fitted to its weight.
        heads: T mixes this many heads of the output, starting from the identity; None for no T.
    """

    def __init__(self, shared: nn.Linear, own: nn.Linear, heads: int | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = own.in_features, own.out_features
        self.shared = shared
        self.scale = nn.Parameter(fitted_scale(own.weight.detach(), shared.weight.detach()))
        self.bias = None if own.bias is None else nn.Parameter(own.bias.detach().clone())
        # What is trained is the difference to the identity, which may decay.
        self.mix = None if heads is None else nn.Parameter(own.weight.new_zeros(heads, heads))

    @property
    def weight(self) -> Tensor:
        """What this place computes with (out, in)."""
        return self._mixed(self.shared.weight.T).T * self.scale[:, None]

    def _mixed(self, y: Tensor) -> Tensor:
        if self.mix is None:
            return y
        heads = y.unflatten(-1, (len(self.mix), -1))  # … H D/H
        return (heads + torch.einsum("gh,...hd->...gd", self.mix, heads)).flatten(-2)

    def forward(self, x: Tensor) -> Tensor:
        y = self._mixed(self.shared(x)) * self.scale
        return y if self.bias is None else y + self.bias


def fitted_scale(weight: Tensor, shared: Tensor) -> Tensor:
    """The factors s that minimize ‖W − diag(s) W_s‖, row by row.

    Args:
        weight, shared: (out, in).
    Returns:
        (out,); 1 for rows of zeros.
    """
    energy = shared.square().sum(dim=1)
    fitted = (weight * shared).sum(dim=1) / energy.clamp(min=1e-30)
    return torch.where(energy > 0, fitted, torch.ones_like(fitted))


def merged(tensors: Sequence[Tensor], initial: Initial) -> Tensor:
    """What several places share to begin with."""
    return tensors[0].clone() if initial == "first" else torch.stack(list(tensors)).mean(dim=0)


@torch.no_grad()
def share_linear(
    layers: Sequence[nn.Linear], *, transform: Transform, initial: Initial, heads: int | None = None
) -> list[nn.Module]:
    """One weight for all the layers.

    Args:
        layers: of one shape.
        transform: `norms`: one layer, its bias included; `scale`: a scale per channel and a bias
            for each place; `heads`: where `heads` is given, a mixing of the heads too.
        initial: what the shared weight starts from.
        heads: of the output.
    Returns:
        What to put in place of each layer.
    """
    first = layers[0]
    weight = merged([layer.weight for layer in layers], initial)
    if transform == "norms":
        first.weight.copy_(weight)
        if first.bias is not None:
            biases = [layer.bias for layer in layers if layer.bias is not None]
            first.bias.copy_(merged(biases, initial))
        return [first] * len(layers)
    shared = nn.Linear(first.in_features, first.out_features, bias=False, device="meta")
    shared.weight = nn.Parameter(weight)
    return [SharedLinear(shared, layer, heads) for layer in layers]


def share_blocks(
    stack: nn.Module,
    *,
    groups: Sequence[Sequence[int]],
    transform: Literal["none"] | Transform,
    initial: Initial = "first",
) -> nn.Module:
    """The list of blocks in which the blocks of each group share their weights.

    Args:
        stack: edited in place.
        groups: lists of block numbers, from 0.
        transform: `none`, the whole block is shared; or that of `share_linear`.
        initial: what the shared weights start from.
    """
    blocks = cast(nn.ModuleList, stack)
    for group in groups:
        distinct = list({id(blocks[i]): blocks[i] for i in group}.values())
        if transform == "none":
            _share_all(distinct, initial)
            for index in group:
                blocks[index] = distinct[0]
        else:
            _share_linears(distinct, transform, initial)
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
    """The model in which two lists of blocks share linear layers, block by block.

    Args:
        model: edited in place.
        stacks: paths of the two lists.
        pairs: block numbers, of the first list and of the second.
        layers: paths inside a block.
        transform, initial: of `share_linear`.
    """
    for pair in pairs:
        places = [f"{stack}.{index}" for stack, index in zip(stacks, pair, strict=True)]
        for layer in layers:
            paths = [f"{place}.{layer}" for place in places]
            found = [cast(nn.Linear, model.get_submodule(path)) for path in paths]
            if found[0] is found[1]:  # an earlier step has shared blocks of one tower
                continue
            shared = share_linear(found, transform=transform, initial=initial)
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
    """Path of q, k and v in a block → how many heads it has."""
    found = {}
    for path, attention in attentions_of(block):
        parts = attention_parts(attention)
        assert parts is not None
        for name in (parts.q, parts.k, parts.v):
            found[f"{path}.{name}"] = heads_in(attention, name)
    return found
