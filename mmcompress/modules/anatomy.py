"""Where the parts of a transformer lie: stacks of blocks, attention and MLP inside a block.

Libraries agree on how a block is built and differ in what its parts are called. A new naming is one
more row in a table here.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeGuard

from torch import nn


@dataclass(frozen=True)
class AttentionParts:
    """Names, inside an attention module, of its projections.

    Attributes:
        q, k, v, out: dotted paths.
        heads: the attribute that holds how many heads there are; None where that follows from
            `head_dim`.
        width: the attribute that holds how wide all heads are together, where there is one.
        known_by: an attribute that tells it from another attention with the same layers.
        fixed: whether it expects all heads together to be as wide as its input, so none can go.
        head_dim: the attribute that holds how wide one head is, where `heads` is None. There k and
            v may have fewer heads than q (grouped queries, arXiv:2305.13245).
    """

    q: str
    k: str
    v: str
    out: str
    heads: str | None
    width: str | None = None
    known_by: str | None = None
    fixed: bool = False
    head_dim: str | None = None


@dataclass(frozen=True)
class MlpParts:
    """Names, inside an MLP module, of its two layers, and of the one that gates the first."""

    up: str
    down: str
    gate: str | None = None

    @property
    def inner(self) -> tuple[str, ...]:
        """The layers whose outputs are the neurons."""
        return (self.up,) if self.gate is None else (self.up, self.gate)


ATTENTIONS = (
    # transformers' CLIP and its kin
    AttentionParts("q_proj", "k_proj", "v_proj", "out_proj", heads="num_heads"),
    # transformers' ViT and its kin
    AttentionParts("q_proj", "k_proj", "v_proj", "o_proj", heads="num_attention_heads"),
    # mmcompress.backbones.attention
    AttentionParts("q_proj", "k_proj", "v_proj", "out_proj", heads="heads"),
    # timm, after mmcompress.backbones.fused
    AttentionParts(
        "qkv.q_proj", "qkv.k_proj", "qkv.v_proj", "proj", heads="num_heads", width="attn_dim"
    ),
    # timm's EVA, likewise
    AttentionParts(
        "qkv.q_proj",
        "qkv.k_proj",
        "qkv.v_proj",
        "proj",
        heads="num_heads",
        known_by="num_prefix_tokens",
        fixed=True,
    ),
    # transformers' Llama and its kin
    AttentionParts(
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        heads=None,
        head_dim="head_dim",
        known_by="num_key_value_groups",
    ),
    # transformers' Pixtral
    AttentionParts("q_proj", "k_proj", "v_proj", "o_proj", heads="num_heads"),
    # transformers' InternVL
    AttentionParts(
        "q_proj", "k_proj", "v_proj", "projection_layer", heads="num_heads", width="embed_dim"
    ),
    # the towers of transformers' Qwen-VL, after mmcompress.backbones.fused
    AttentionParts(
        "qkv.q_proj",
        "qkv.k_proj",
        "qkv.v_proj",
        "proj",
        heads="num_heads",
        known_by="num_key_value_groups",
    ),
)
ROTATIONS = {"rope", "position_embeddings"}
"""What timm and transformers call the argument of an attention that takes the rotation."""

MLPS = (
    MlpParts("fc1", "fc2"),
    MlpParts("c_fc", "c_proj"),
    MlpParts("linear_fc1", "linear_fc2"),  # transformers' Qwen3-VL
    MlpParts("fc1_x", "fc2", gate="fc1_g"),  # timm's SwiGLU
    MlpParts("up_proj", "down_proj", gate="gate_proj"),  # transformers' Llama and its kin
)


Stack = nn.ModuleList | nn.Sequential


def attention_parts(module: nn.Module) -> AttentionParts | None:
    """How `module` names its projections; None when it is no attention."""
    return next((parts for parts in ATTENTIONS if _has_attention(module, parts)), None)


def qkv_of(attention: nn.Module) -> list[nn.Module]:
    """The three projections that read the input of an attention."""
    parts = attention_parts(attention)
    assert parts is not None
    return [attention.get_submodule(path) for path in (parts.q, parts.k, parts.v)]


def heads_of(module: nn.Module) -> int:
    """How many heads of k and v an attention has; 0 when `module` is none.

    Where several heads of q read one of them, they belong to it.
    """
    parts = attention_parts(module)
    return 0 if parts is None else heads_in(module, parts.k)


def heads_in(attention: nn.Module, name: str) -> int:
    """How many heads one projection of an attention has.

    Args:
        name: of `AttentionParts`.
    """
    parts = attention_parts(attention)
    assert parts is not None
    if parts.heads is not None:
        return getattr(attention, parts.heads)
    assert parts.head_dim is not None
    width = attention.get_submodule(name).out_features
    assert isinstance(width, int)
    return width // getattr(attention, parts.head_dim)


def is_rotary(module: nn.Module) -> bool:
    """Whether an attention rotates q and k by position (RoPE), each head as wide as it is."""
    return not ROTATIONS.isdisjoint(inspect.signature(module.forward).parameters)


def mlp_parts(module: nn.Module) -> MlpParts | None:
    """How `module` names its layers; None when it is no MLP."""
    return next((p for p in MLPS if all(_has(module, n) for n in (*p.inner, p.down))), None)


def attentions_of(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """Path and module of each attention in a block: its own, and one to another tower's tokens.

    Raises:
        ValueError: there is none.
    """
    found = [(path, module) for path, module in block.named_modules() if attention_parts(module)]
    if not found:
        raise ValueError(f"{type(block).__name__} holds no attention")
    return found


def attention_of(block: nn.Module) -> tuple[str, nn.Module]:
    """Path and module of a block's own attention, the first that it holds.

    Raises:
        ValueError: there is none.
    """
    return attentions_of(block)[0]


def mlp_of(block: nn.Module) -> tuple[str, nn.Module]:
    """Path and module of the only MLP in a block.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = [(path, module) for path, module in block.named_modules() if mlp_parts(module)]
    if len(found) != 1:
        raise ValueError(f"{type(block).__name__} holds {len(found)} MLP modules, expected one")
    return found[0]


def find_stacks(model: nn.Module) -> Iterator[tuple[str, Stack]]:
    """Every list of transformer blocks: path and module, in module order."""
    for path, module in model.named_modules():
        if is_stack(module):
            yield path, module


def is_stack(module: nn.Module) -> TypeGuard[Stack]:
    """Whether a module is a list of transformer blocks; an MLP may be a list too, of layers."""
    return isinstance(module, Stack) and len(module) > 0 and all(map(_is_block, module))


def _is_block(module: nn.Module) -> bool:
    inner = list(module.modules())
    return any(map(_is_attention, inner)) and sum(map(_is_mlp, inner)) == 1


def _is_attention(module: nn.Module) -> bool:
    return attention_parts(module) is not None


def _is_mlp(module: nn.Module) -> bool:
    return mlp_parts(module) is not None


def _has_attention(module: nn.Module, parts: AttentionParts) -> bool:
    names = (parts.q, parts.k, parts.v, parts.out)
    named = (parts.heads, parts.width, parts.known_by, parts.head_dim)
    attributes = [a for a in named if a is not None]
    return all(hasattr(module, a) for a in attributes) and all(_has(module, n) for n in names)


def _has(module: nn.Module, path: str) -> bool:
    for name in path.split("."):
        if name not in module._modules:
            return False
        module = module._modules[name]  # type: ignore[assignment]
    return True
