"""Attention with a plain `nn.Linear` for each of q, k, v and out.

`nn.MultiheadAttention` and open_clip's `Attention` keep q, k and v in one raw `in_proj_weight`,
the former never calls its `out_proj`, and the pooling of CLIP's ResNets calls none of its layers:
they cannot be hooked, swapped or quantized like others. `split_attention` replaces all three; the
outputs are the same up to rounding.
"""

import torch
import torch.nn.functional as F
from open_clip.modified_resnet import AttentionPool2d
from open_clip.transformer import Attention as OpenClipAttention
from torch import Tensor, nn

from mmcompress.backbones.fused import linear
from mmcompress.backbones.native import native_state


class _Projections(nn.Module):
    """The four layers, and how their outputs are cut into heads."""

    def __init__(
        self, *, q: nn.Linear, k: nn.Linear, v: nn.Linear, out: nn.Linear, heads: int
    ) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = q, k, v, out
        self.heads = heads
        self.scale: float | None = None
        """Of the scores; 1/√(dimensions of a head) when None."""

    @property
    def _inputs(self) -> dict[str, nn.Module]:
        return {"q_proj": self.q_proj, "k_proj": self.k_proj, "v_proj": self.v_proj}

    def native_state(self, path: str) -> dict[str, Tensor]:
        """One matrix for q, k and v, or three where they read different widths."""
        out = native_state(self.out_proj, f"{path}.out_proj")
        states = {name: native_state(layer, name) for name, layer in self._inputs.items()}
        weights = [states[name][f"{name}.weight"] for name in states]
        biases = [state[key] for state in states.values() for key in state if "bias" in key]
        found = {f"{path}.in_proj_bias": torch.cat(biases)} if biases else {}
        if len({weight.shape[1] for weight in weights}) == 1:
            return out | found | {f"{path}.in_proj_weight": torch.cat(weights)}
        separate = zip(states, weights, strict=True)
        return out | found | {f"{path}.{name}_weight": weight for name, weight in separate}

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B H T D/H

    def _merge(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)  # B T D

    def _mask(self, mask: Tensor | None, q: Tensor) -> Tensor | None:
        """For `scaled_dot_product_attention`: True is seen, floats have the type of q (B H T D/H).

        A tower makes one mask for all layers, by its number of heads; those of heads that are gone
        are cut off, for open_clip's are alike in all heads.
        """
        if mask is None:
            return None
        if mask.ndim == 3:
            mask = mask.unflatten(0, (len(q), -1))[:, : self.heads]  # B H T S
        return ~mask if mask.dtype == torch.bool else mask.to(q.dtype)


class ExplicitAttention(_Projections):
    """Called like `nn.MultiheadAttention(batch_first=True)` with `need_weights=False`.

    Args:
        q, k, v, out: the projections; k and v may read another width than q.
        heads: divides the output width of q.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attention of `query` over `key` and `value`.

        Args:
            query: (B, T, Dq).
            key, value: (B, S, Dk).
            need_weights: must be False, the weights are never built.
            attn_mask: (T, S) or (B·H, T, S); added to the scores, or bool where True is hidden.
        Returns:
            (B, T, Dq) and None.
        """
        assert not need_weights, "attention weights are not built"
        q = self._split(self.q_proj(query))
        k = self._split(self.k_proj(key))
        v = self._split(self.v_proj(value))
        mixed = F.scaled_dot_product_attention(
            q, k, v, attn_mask=self._mask(attn_mask, q), scale=self.scale
        )
        return self.out_proj(self._merge(mixed)), None


class ExplicitSelfAttention(_Projections):
    """Called like open_clip's `Attention`, whose optional norms and head scales it takes over.

    Args:
        source: the module to replace; its parameters are copied or, where they are not
            projections, taken over.
    Raises:
        ValueError: `scaled_cosine`, whose forward in open_clip 3.3 fails on its own shapes.
    """

    def __init__(self, source: OpenClipAttention) -> None:
        if source.scaled_cosine:
            raise ValueError("scaled_cosine_attn is not supported: use a model without it")
        q, k, v = _linears(source.in_proj_weight.chunk(3), source.in_proj_bias)
        super().__init__(q=q, k=k, v=v, out=source.out_proj, heads=source.num_heads)
        self.ln_q, self.ln_k, self.ln_inner = source.ln_q, source.ln_k, source.ln_inner
        self.head_scale = source.head_scale
        self.attn_drop, self.out_drop = source.attn_drop, source.out_drop

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """(B, T, D) → (B, T, D); the mask as in `ExplicitAttention`."""
        q = self.ln_q(self._split(self.q_proj(x)))
        k = self.ln_k(self._split(self.k_proj(x)))
        v = self._split(self.v_proj(x))
        mixed = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=self._mask(attn_mask, q),
            dropout_p=self.attn_drop.p if self.training else 0.0,
            scale=self.scale,
        )
        if self.head_scale is not None:
            mixed = mixed * self.head_scale
        return self.out_drop(self.out_proj(self.ln_inner(self._merge(mixed))))

    def native_state(self, path: str) -> dict[str, Tensor]:
        """The projections as in `nn.MultiheadAttention`, norms and head scales beside them."""
        found = super().native_state(path)
        for name in ("ln_q", "ln_k", "ln_inner"):
            found |= native_state(getattr(self, name), f"{path}.{name}")
        if self.head_scale is not None:
            found[f"{path}.head_scale"] = self.head_scale.detach()
        return found


class ExplicitAttentionPool(ExplicitAttention):
    """Called like open_clip's `AttentionPool2d`: the mean of all positions attends to them.

    Args:
        source: the module to replace; its layers are taken over.
    """

    def __init__(self, source: AttentionPool2d) -> None:
        layers = {"q": source.q_proj, "k": source.k_proj, "v": source.v_proj}
        super().__init__(**layers, out=source.c_proj, heads=source.num_heads)
        self.positional_embedding = source.positional_embedding

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, D, H, W) → (B, D out)."""
        x = x.flatten(2).mT  # B HW D
        x = torch.cat([x.mean(dim=1, keepdim=True), x], dim=1)
        x = x + self.positional_embedding.to(x.dtype)
        pooled, _ = super().forward(x[:, :1], x, x)
        return pooled[:, 0]

    def native_state(self, path: str) -> dict[str, Tensor]:
        """The layers under open_clip's names."""
        found = {f"{path}.positional_embedding": self.positional_embedding.detach()}
        for name, layer in {**self._inputs, "c_proj": self.out_proj}.items():
            found |= native_state(layer, f"{path}.{name}")
        return found


def split_attention(model: nn.Module) -> None:
    """Replace, in place, every fused attention inside `model` by an explicit one.

    Raises:
        ValueError: an option of `nn.MultiheadAttention` that CLIP models do not use.
    """
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.MultiheadAttention):
            model.set_submodule(path, _from_multihead(module, path))
        elif isinstance(module, OpenClipAttention):
            model.set_submodule(path, ExplicitSelfAttention(module))
        elif isinstance(module, AttentionPool2d):
            model.set_submodule(path, ExplicitAttentionPool(module))


def _from_multihead(source: nn.MultiheadAttention, path: str) -> ExplicitAttention:
    extras = source.bias_k is not None or source.add_zero_attn or source.dropout > 0
    if extras or not source.batch_first:
        raise ValueError(
            f"{path}: attention with bias_k, add_zero_attn, dropout or batch_first=False is not "
            "supported: use a model without them"
        )
    if source.in_proj_weight is None:  # key and value have a width of their own
        weights = (source.q_proj_weight, source.k_proj_weight, source.v_proj_weight)
    else:
        weights = source.in_proj_weight.chunk(3)
    q, k, v = _linears(weights, source.in_proj_bias)
    out = linear(source.out_proj.weight, source.out_proj.bias)
    return ExplicitAttention(q=q, k=k, v=v, out=out, heads=source.num_heads)


def _linears(weights: tuple[Tensor, ...], bias: Tensor | None) -> list[nn.Linear]:
    biases = [None] * len(weights) if bias is None else bias.chunk(len(weights))
    return [linear(weight, part) for weight, part in zip(weights, biases, strict=True)]
