"""BERT-like blocks with their parts under the names that CLIP towers use.

transformers spreads the layers of a BERT block over modules that share their owners (`query` in
`attention.self`, `dense` in `attention.output`, the MLP in the block itself), so that no one module
is the attention or the MLP. `PostNormBlock` takes the layers out and puts them together again; the
outputs are the same up to rounding.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from mmcompress.backbones.attention import ExplicitAttention
from mmcompress.backbones.native import native_state


@dataclass(frozen=True)
class Layout:
    """Where a library's model keeps its blocks, and where the parts lie inside a block.

    Attributes:
        blocks: dotted path, in the model, of the list of blocks; all others are in a block.
        q, k, v, out, up, activation, down: the layers.
        attention_norm, mlp_norm: after the attention and after the MLP, residuals added.
    """

    blocks: str
    q: str
    k: str
    v: str
    out: str
    attention_norm: str
    up: str
    activation: str
    down: str
    mlp_norm: str


BERT = Layout(
    blocks="encoder.layer",
    q="attention.self.query",
    k="attention.self.key",
    v="attention.self.value",
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    activation="intermediate.intermediate_act_fn",
    down="output.dense",
    mlp_norm="output.LayerNorm",
)


DISTILBERT = Layout(
    blocks="transformer.layer",
    q="attention.q_lin",
    k="attention.k_lin",
    v="attention.v_lin",
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    activation="ffn.activation",
    down="ffn.lin2",
    mlp_norm="output_layer_norm",
)


ALTCLIP = replace(BERT, blocks="encoder.layers")


LAYOUTS = {
    "bert": BERT,
    "roberta": BERT,
    "xlm-roberta": BERT,
    "camembert": BERT,
    "distilbert": DISTILBERT,
    "chinese_clip_text_model": BERT,
    "altclip_text_model": ALTCLIP,
    "clap_text_model": BERT,
}
"""By `model_type`. Others name their layers alike and compute something else."""


class Mlp(nn.Module):
    """Two layers with an activation between them."""

    def __init__(self, up: nn.Module, activation: nn.Module, down: nn.Module) -> None:
        super().__init__()
        self.fc1, self.activation, self.fc2 = up, activation, down

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class PostNormBlock(nn.Module):
    """Attention and MLP, each followed by its residual and then a norm (arXiv:1706.03762).

    Called like the library's block, and without its dropout: what is fine-tuned here is to stay
    close to a dense model, which dropout only blurs.

    Args:
        source: the library's block, whose layers are taken over.
        layout: where they lie in it.
        heads: of the attention.
    """

    def __init__(self, source: nn.Module, layout: Layout, *, heads: int) -> None:
        super().__init__()
        self.layout = layout
        part = source.get_submodule
        self.self_attn = ExplicitAttention(
            q=part(layout.q),  # type: ignore[arg-type]
            k=part(layout.k),  # type: ignore[arg-type]
            v=part(layout.v),  # type: ignore[arg-type]
            out=part(layout.out),  # type: ignore[arg-type]
            heads=heads,
        )
        self.attention_norm = part(layout.attention_norm)
        self.mlp = Mlp(part(layout.up), part(layout.activation), part(layout.down))
        self.mlp_norm = part(layout.mlp_norm)

    def forward(
        self, hidden: Tensor, attention_mask: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor:
        """(B, T, D) → (B, T, D).

        Args:
            attention_mask: broadcastable to (B, heads, T, T): bool, True where a token is seen, or
                floats that are added to the scores; all are seen when None.
        """
        if attention_mask is not None and attention_mask.dtype == torch.bool:
            attention_mask = ~attention_mask  # the attention wants to know what is hidden
        mixed, _ = self.self_attn(hidden, hidden, hidden, attn_mask=attention_mask)
        hidden = self.attention_norm(hidden + mixed)
        return self.mlp_norm(hidden + self.mlp(hidden))

    def native_state(self, path: str) -> dict[str, Tensor]:
        """The layers where the library's block has them."""
        layout, attention, mlp = self.layout, self.self_attn, self.mlp
        places = {
            layout.q: attention.q_proj,
            layout.k: attention.k_proj,
            layout.v: attention.v_proj,
            layout.out: attention.out_proj,
            layout.attention_norm: self.attention_norm,
            layout.up: mlp.fc1,
            layout.down: mlp.fc2,
            layout.mlp_norm: self.mlp_norm,
        }
        found: dict[str, Tensor] = {}
        for place, layer in places.items():
            found |= native_state(layer, f"{path}.{place}")
        return found


def split_blocks(model: nn.Module) -> None:
    """Replace, in place, the blocks of every BERT-like encoder inside `model`; dropout goes.

    Encoders of other types stay as they are.
    """
    for encoder in [m for m in model.modules() if isinstance(m, PreTrainedModel)]:
        layout = LAYOUTS.get(encoder.config.model_type)
        if layout is None or getattr(encoder.config, "is_decoder", False):
            continue
        if layout.blocks not in dict(encoder.named_modules()):
            continue  # a class around the encoder that shares its config
        heads = encoder.config.num_attention_heads
        for index, block in enumerate(encoder.get_submodule(layout.blocks).children()):
            explicit = PostNormBlock(block, layout, heads=heads)
            encoder.set_submodule(f"{layout.blocks}.{index}", explicit)
        _without_dropout(encoder)


def _without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
