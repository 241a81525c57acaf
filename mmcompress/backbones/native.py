"""A model's weights under the names and in the shapes of the library it comes from.

Modules that an adapter or a recipe has put in place of others say what theirs is by a method
`native_state(path)`; one that shows a `weight` stands for a single layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Backbone
from mmcompress.modules.anatomy import (
    attention_of,
    attention_parts,
    find_stacks,
    heads_in,
    mlp_of,
    mlp_parts,
)


def native_state(module: nn.Module, path: str = "") -> dict[str, Tensor]:
    """State dict as the library's own module would give it.

    Args:
        path: of the module, before its keys.
    Raises:
        ValueError: the library has nothing for what a module computes.
    """
    own: Any = getattr(module, "native_state", None)
    if own is not None:
        return own(path)
    if isinstance(getattr(type(module), "weight", None), property):
        layer = {"weight": module.weight, "bias": getattr(module, "bias", None)}
        return {_join(path, k): t.detach() for k, t in layer.items() if isinstance(t, Tensor)}
    skipped = module._non_persistent_buffers_set
    tensors = {**module._parameters, **module._buffers}
    found = {
        _join(path, name): tensor.detach()
        for name, tensor in tensors.items()
        if tensor is not None and name not in skipped
    }
    for name, child in module._modules.items():
        if child is not None:
            found |= native_state(child, _join(path, name))
    return found


@dataclass(frozen=True)
class TowerSizes:
    """What may differ from the dense model's config.

    Attributes:
        blocks: how many.
        mlp: inner width of their MLPs.
        heads: of q, of k and v, and how wide each is, where the blocks are like Llama's and all
            have as many; else None.
    """

    blocks: int
    mlp: int
    heads: tuple[int, int, int] | None = None


def tower_sizes(backbone: Backbone, modality: str) -> TowerSizes | None:
    """Those of the tower as it stands; None where it is no single stack of blocks of one width."""
    stacks = [
        stack
        for path, stack in find_stacks(backbone.model)
        if backbone.modality_of(f"{path}.") == modality
    ]
    if len(stacks) != 1:
        return None
    widths = {_mlp_width(block) for block in stacks[0]}
    heads = {_heads(block) for block in stacks[0]}
    same = heads.pop() if len(heads) == 1 else None
    return TowerSizes(len(stacks[0]), widths.pop(), same) if len(widths) == 1 else None


def _heads(block: nn.Module) -> tuple[int, int, int] | None:
    _, attention = attention_of(block)
    parts = attention_parts(attention)
    assert parts is not None
    if parts.head_dim is None:  # how wide one is follows from how many there are
        return None
    width: int = getattr(attention, parts.head_dim)
    return heads_in(attention, parts.q), heads_in(attention, parts.k), width


def _mlp_width(block: nn.Module) -> int:
    _, mlp = mlp_of(block)
    parts = mlp_parts(mlp)
    assert parts is not None
    return mlp.get_submodule(parts.up).out_features  # type: ignore[return-value]


def fill(model: nn.Module, state: Mapping[str, Tensor], library: str) -> None:
    """Put a native state into an untouched model of the library.

    Raises:
        ValueError: the model has no place for a tensor, or none of that shape.
    """
    wanted = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    there = {key: list(tensor.shape) for key, tensor in state.items()}
    for key in sorted(wanted.keys() | there.keys()):
        if wanted.get(key) != there.get(key):
            ours, theirs = (
                " x ".join(map(str, s[key])) if key in s else "missing" for s in (there, wanted)
            )
            raise ValueError(
                f"{library} cannot express this model: its config gives {key} as {theirs}, and "
                f"here it is {ours}; keep the artifact, or compress without changing shapes"
            )
    with torch.no_grad():
        for key, tensor in model.state_dict(keep_vars=True).items():
            tensor.copy_(state[key])


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
