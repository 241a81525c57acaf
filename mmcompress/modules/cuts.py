"""Taking heads, head dimensions, MLP neurons and blocks out of a transformer: smaller modules.

What is removed must not be missed: whatever else in a module has that width, such as a norm between
the two layers of an MLP, is a reason to refuse.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from mmcompress.modules.anatomy import (
    Stack,
    attention_parts,
    attentions_of,
    heads_of,
    is_rotary,
    is_stack,
    mlp_parts,
)
from mmcompress.modules.lowrank import LowRankLinear

Index = Sequence[int]

HEAD_NORMS = ("ln_q", "ln_k", "q_norm", "k_norm")
"""Norms over the dimensions of one head, the same for all heads."""


def keep_outputs(layer: nn.Module, kept: Index) -> nn.Module:
    """The layer with only these outputs: rows of a linear layer, of U in a low-rank one."""
    if isinstance(layer, LowRankLinear):
        layer.u = keep_outputs(layer.u, kept)  # type: ignore[assignment]
        layer.out_features = len(kept)
        return layer
    linear = _plain(layer)
    bias = None if linear.bias is None else _take(linear.bias, kept, 0)
    return _linear(_take(linear.weight, kept, 0), bias)


def keep_inputs(layer: nn.Module, kept: Index, gain: Tensor | None = None) -> nn.Module:
    """The layer with only these inputs: columns of a linear layer, of Vᵀ in a low-rank one.

    Args:
        kept: which inputs.
        gain: (in, kept), what is left reads `weight @ gain` in place of the kept columns.
    """
    if isinstance(layer, LowRankLinear):
        layer.v = keep_inputs(layer.v, kept, gain)  # type: ignore[assignment]
        layer.in_features = len(kept)
        return layer
    linear = _plain(layer)
    if gain is None:
        weight = _take(linear.weight, kept, 1)
    else:
        weight = (linear.weight.detach().to(gain) @ gain).to(linear.weight)
    return _linear(weight, linear.bias)


def keep_neurons(mlp: nn.Module, kept: Index, gain: Tensor | None = None) -> nn.Module:
    """The MLP with only these neurons, in place.

    Args:
        gain: of `keep_inputs`, for the second layer.
    Raises:
        ValueError: something other than its layers has the width of the neurons.
    """
    parts = mlp_parts(mlp)
    assert parts is not None
    check_mlp(mlp)
    for name in parts.inner:
        mlp.set_submodule(name, keep_outputs(mlp.get_submodule(name), kept))
    mlp.set_submodule(parts.down, keep_inputs(mlp.get_submodule(parts.down), kept, gain))
    return mlp


def keep_heads(attention: nn.Module, kept: Index, gain: Tensor | None = None) -> nn.Module:
    """The attention with only these heads, in place.

    Where several heads of q share one of k and v, that one is the head and takes them with it.

    Args:
        gain: of `keep_inputs`, for the output projection.
    Raises:
        ValueError: something other than the projections has the width of all heads.
    """
    check_attention(attention, norms=HEAD_NORMS)
    parts = attention_parts(attention)
    assert parts is not None
    heads = heads_of(attention)
    _keep_columns(attention, lambda width: expand(kept, width // heads), gain)
    if parts.heads is not None:
        setattr(attention, parts.heads, len(kept))
    _set_width(attention)
    head_scale = getattr(attention, "head_scale", None)
    if head_scale is not None:
        attention.head_scale = nn.Parameter(_take(head_scale, kept, 0))
    return attention


def keep_head_dims(attention: nn.Module, kept: Index) -> nn.Module:
    """The attention with only these dimensions in each head, in place; the softmax scale stays.

    Raises:
        ValueError: something other than the projections has the width of a head.
    """
    check_attention(attention, norms=())
    if getattr(attention, "scale", None) is None:
        attention.scale = head_dim(attention) ** -0.5
    columns = head_dim_columns(attention, kept)
    _keep_columns(attention, lambda width: columns, None)
    if hasattr(attention, "head_dim"):
        attention.head_dim = len(kept)  # type: ignore[assignment]
    if hasattr(attention, "fused_attn"):  # timm's fused kernel has a scale of its own
        attention.fused_attn = False  # type: ignore[assignment]
    _set_width(attention)
    return attention


def keep_blocks(stack: Stack, kept: Index) -> Stack:
    """The list with only these blocks."""
    blocks = [stack[index] for index in kept]
    return nn.ModuleList(blocks) if isinstance(stack, nn.ModuleList) else nn.Sequential(*blocks)


def keep_structures(
    module: nn.Module, kept: Index, *, gain: Tensor | None = None, of: str | None = None
) -> nn.Module:
    """The list of blocks, the attention or the MLP with only these blocks, heads or neurons.

    Args:
        gain: of `keep_inputs`, for the layer that reads heads or neurons.
        of: `head_dims`, to keep dimensions in each head in place of heads.
    Raises:
        ValueError: something else in the module has the width of what goes.
    """
    if is_stack(module):
        return keep_blocks(module, kept)
    if of == "head_dims":
        return keep_head_dims(module, kept)
    if is_attention(module):
        return keep_heads(module, kept, gain)
    return keep_neurons(module, kept, gain)


def cut(module: nn.Module, *, kept: int, of: str | None = None) -> nn.Module:
    """The shapes of `keep_structures`, for weights that will be loaded afterwards.

    Args:
        kept: how many structures are left.
        of: of `keep_structures`.
    """
    return keep_structures(module, range(kept), of=of)


def is_attention(module: nn.Module) -> bool:
    """Whether a module has heads."""
    return attention_parts(module) is not None


def head_dim(attention: nn.Module) -> int:
    """Columns that the output projection has for one head of k and v."""
    parts = attention_parts(attention)
    assert parts is not None
    width = attention.get_submodule(parts.out).in_features
    assert isinstance(width, int)
    return width // heads_of(attention)


def head_dim_columns(attention: nn.Module, kept: Index) -> list[int]:
    """Columns of all heads that belong to these dimensions of a head."""
    parts = attention_parts(attention)
    assert parts is not None
    size = head_dim(attention)
    return [head * size + dim for head in range(heads_of(attention)) for dim in kept]


def expand(kept: Index, size: int) -> list[int]:
    """Columns of structures that are `size` columns wide.

    Example:
        >>> expand([0, 2], 3)
        [0, 1, 2, 6, 7, 8]
    """
    return [structure * size + offset for structure in kept for offset in range(size)]


def check_mlp(mlp: nn.Module) -> None:
    """Refuse what `keep_neurons` cannot cut.

    Raises:
        ValueError: names what is in the way.
    """
    parts = mlp_parts(mlp)
    assert parts is not None
    _check(mlp, {*parts.inner, parts.down}, "neurons")


def check_attention(attention: nn.Module, *, norms: Sequence[str] = HEAD_NORMS) -> None:
    """Refuse what `keep_heads`, or without norms `keep_head_dims`, cannot cut.

    Raises:
        ValueError: names what is in the way.
    """
    parts = attention_parts(attention)
    assert parts is not None
    if parts.fixed:
        raise ValueError(
            f"{type(attention).__name__} expects its heads to be as wide as its input, so none of "
            "them can be removed: leave it out with a selector (modality, role)"
        )
    layers = {parts.q, parts.k, parts.v, parts.out}
    _check(attention, layers | set(norms), "heads" if norms else "dimensions of heads")
    if not norms and is_rotary(attention):
        raise ValueError(
            f"dimensions of heads of {type(attention).__name__} are rotated by position, so none "
            "can be removed: leave it out with a selector (modality, role)"
        )
    own = [name for name, p in attention._parameters.items() if p is not None]
    if parts.heads is None and own:
        raise ValueError(
            f"{own[0]} in {type(attention).__name__} depends on all its heads, so none can be "
            "removed: leave it out with a selector (modality, role)"
        )
    inner = [attention.get_submodule(name).out_features for name in (parts.q, parts.k, parts.v)]
    width = attention.get_submodule(parts.out).in_features
    grouped = parts.heads is None and bool(norms) and inner == [width, inner[1], inner[1]]
    if inner != [width] * 3 and not grouped:
        raise ValueError(
            f"q, k and v of {type(attention).__name__} are {inner} wide and out reads {width}: "
            "heads that share keys cannot be removed, leave it out with a selector"
        )


def check_layers(module: nn.Module, names: Iterable[str]) -> None:
    """Refuse layers that cannot be made smaller.

    Raises:
        ValueError: one is neither linear nor of low rank.
    """
    for name in names:
        layer = module.get_submodule(name)
        if not isinstance(layer, LowRankLinear):
            _plain(layer)


BY_PLACE = ("fullatt_block_indexes", "deepstack_visual_indexes")
"""Attributes by which the towers of Qwen-VL say which of their blocks differ from the others."""


def check_stack(path: str, stack: Stack, owner: nn.Module | None = None) -> list[str]:
    """Refuse a list whose blocks cannot be taken out; the paths of the blocks.

    Args:
        path, stack: of the list.
        owner: the module that holds it and runs the blocks.
    Raises:
        ValueError: one block stands in several places, or the model tells them apart by their
            place.
    """
    attentions = [attention for block in stack for _, attention in attentions_of(block)]
    windows = {getattr(attention, "sliding_window", None) for attention in attentions}
    if len(windows) > 1:
        raise ValueError(
            f"blocks of {path} see different windows and the model knows them by their place, so "
            "none can be removed: leave it out with a selector (modality, role)"
        )
    places = [name for name in BY_PLACE if getattr(owner, name, None)]
    if places:
        raise ValueError(
            f"the model knows blocks of {path} by their place ({', '.join(places)}), so none can "
            "be removed: leave it out with a selector (modality, part)"
        )
    if len(set(map(id, stack))) < len(stack):
        raise ValueError(
            f"{path} has one block in several places: remove blocks before the step that shares "
            "them, or leave it out with a selector"
        )
    return [f"{path}.{index}" for index in range(len(stack))]


def check_unshared(path: str, model: nn.Module) -> None:
    """Refuse to cut layers that other modules use too.

    Raises:
        ValueError: names one.
    """
    inside = {id(m) for m in model.get_submodule(path).modules()}
    for owner, module in model.named_modules():
        if id(module) in inside:
            continue
        for name, child in module.named_children():
            if id(child) in inside and child is not model.get_submodule(path):
                raise ValueError(
                    f"{path} shares a layer with {owner}.{name}, which would not be cut with it: "
                    "remove structures before the step that shares, or leave it out with a selector"
                )


def _check(module: nn.Module, known: set[str], what: str) -> None:
    inside = {name.partition(".")[0] for name in known}
    for name, child in module.named_children():
        if name not in inside and next(child.parameters(), None) is not None:
            raise ValueError(
                f"{name} ({type(child).__name__}) in {type(module).__name__} depends on all its "
                f"{what}, so none can be removed: leave it out with a selector (modality, role)"
            )
    check_layers(module, known - set(HEAD_NORMS))


def _keep_columns(
    attention: nn.Module, columns: Callable[[int], Index], gain: Tensor | None
) -> None:
    """Keep rows of q, k and v and columns of out, each chosen by how wide all of them are."""
    parts = attention_parts(attention)
    assert parts is not None
    for name in (parts.q, parts.k, parts.v):
        layer = attention.get_submodule(name)
        kept = columns(layer.out_features)  # type: ignore[arg-type]
        attention.set_submodule(name, keep_outputs(layer, kept))
    out = attention.get_submodule(parts.out)
    kept = columns(out.in_features)  # type: ignore[arg-type]
    attention.set_submodule(parts.out, keep_inputs(out, kept, gain))


def _set_width(attention: nn.Module) -> None:
    """Let an attention that keeps the width of its heads know of a cut."""
    parts = attention_parts(attention)
    assert parts is not None
    if parts.width is not None:
        setattr(attention, parts.width, attention.get_submodule(parts.out).in_features)


def _plain(layer: nn.Module) -> nn.Linear:
    if type(layer) is not nn.Linear:
        raise ValueError(
            f"{type(layer).__name__} cannot be made smaller: remove structures before the step "
            "that put it there, or leave it out with a selector"
        )
    return layer


def _take(tensor: Tensor, kept: Index, dim: int) -> Tensor:
    index = torch.tensor(list(kept), device=tensor.device)
    return tensor.detach().index_select(dim, index)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    rows, columns = weight.shape
    layer = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach())
    return layer
