"""The explicit attention against the fused modules that it replaces."""

import pytest
import torch
from open_clip.transformer import Attention
from torch import nn

from mmcompress.backbones.attention import (
    ExplicitAttention,
    ExplicitSelfAttention,
    split_attention,
)
from mmcompress.modules.cuts import keep_heads

# float32 with a few dozen summands; the fused kernels add in another order.
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


def identity() -> nn.Linear:
    layer = nn.Linear(2, 2)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def split(module: nn.Module) -> nn.Module:
    parent = nn.ModuleDict({"attn": module})
    split_attention(parent)
    return parent["attn"]


def test_by_hand():
    attention = ExplicitAttention(q=identity(), k=identity(), v=identity(), out=identity(), heads=1)
    key = torch.tensor([[[10.0, 0.0], [0.0, 10.0]]])
    query = torch.tensor([[[10.0, 0.0]]])  # scores 100/√2 and 0: all weight on the first key
    value = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    torch.testing.assert_close(attention(query, key, value)[0], value[:, :1])
    hidden = torch.tensor([[True, False]])  # hides the first key
    torch.testing.assert_close(attention(query, key, value, attn_mask=hidden)[0], value[:, 1:])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_equals_multihead_attention(bias: bool, training: bool):
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(16, 4, bias=bias, batch_first=True).train(training)
    for parameter in fused.parameters():
        nn.init.normal_(parameter, std=0.3)  # its own initialization has zero biases
    x = torch.randn(3, 5, 16)
    causal = torch.full((5, 5), -torch.inf).triu(1)
    per_head = torch.randn(3 * 4, 5, 5)
    masks = [None, causal, causal.isinf(), per_head]
    with torch.no_grad():
        expected = [fused(x, x, x, need_weights=False, attn_mask=mask)[0] for mask in masks]
        explicit = split(fused)
        for mask, output in zip(masks, expected, strict=True):
            found = explicit(x, x, x, need_weights=False, attn_mask=mask)[0]
            torch.testing.assert_close(found, output, **TOLERANCE)


def test_a_mask_for_all_heads_serves_those_that_are_left():
    torch.manual_seed(0)
    attention = split(nn.MultiheadAttention(16, 4, batch_first=True).eval())
    keep_heads(attention, [1, 3])
    x, masks = torch.randn(3, 5, 16), torch.randn(3, 5, 5)
    with torch.no_grad():
        found, expected = (
            attention(x, x, x, attn_mask=masks.repeat_interleave(heads, 0))[0] for heads in (4, 2)
        )
    assert torch.equal(found, expected)


def test_equals_multihead_attention_over_keys_of_another_width():
    torch.manual_seed(0)
    fused = nn.MultiheadAttention(16, 4, kdim=24, vdim=24, batch_first=True).eval()
    nn.init.normal_(fused.in_proj_bias)
    query, context = torch.randn(3, 2, 16), torch.randn(3, 7, 24)
    with torch.no_grad():
        expected = fused(query, context, context, need_weights=False)[0]
        found = split(fused)(query, context, context, need_weights=False)[0]
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qkv_bias": False},
        {"qk_norm": True},
        {"scale_heads": True, "inner_norm": True},
    ],
)
def test_equals_attention_of_open_clip(options: dict[str, bool]):
    torch.manual_seed(0)
    fused = Attention(16, 4, **options).eval()
    for parameter in fused.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, causal = torch.randn(3, 5, 16), torch.full((5, 5), -torch.inf).triu(1)
    with torch.no_grad():
        expected = [fused(x), fused(x, attn_mask=causal)]
        explicit = split(fused)
        assert isinstance(explicit, ExplicitSelfAttention)
        torch.testing.assert_close([explicit(x), explicit(x, causal)], expected, **TOLERANCE)


def test_the_projections_are_layers_that_run_and_own_their_weights():
    explicit = split(nn.MultiheadAttention(16, 4, batch_first=True))
    seen = []
    for name, layer in explicit.named_children():
        assert type(layer) is nn.Linear
        layer.register_forward_hook(lambda *_, name=name: seen.append(name))
    x = torch.randn(2, 3, 16)
    explicit(x, x, x)
    assert sorted(seen) == ["k_proj", "out_proj", "q_proj", "v_proj"]
    assert not any("in_proj" in name for name in explicit.state_dict())
    storages = {p.untyped_storage().data_ptr() for p in explicit.parameters()}
    assert len(storages) == 8
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in explicit.parameters())


def test_works_without_storage():
    with torch.device("meta"):
        explicit = split(nn.MultiheadAttention(16, 4, batch_first=True))
    assert all(p.is_meta for p in explicit.parameters())


@pytest.mark.parametrize(
    "options", [{"add_bias_kv": True}, {"add_zero_attn": True}, {"dropout": 0.1}]
)
def test_refuses_options_that_it_would_change(options: dict[str, bool | float]):
    with pytest.raises(ValueError, match="attn: attention with bias_k"):
        split(nn.MultiheadAttention(16, 4, batch_first=True, **options))
    with pytest.raises(ValueError, match="batch_first=False"):
        split(nn.MultiheadAttention(16, 4))


def test_refuses_scaled_cosine():
    with pytest.raises(ValueError, match="scaled_cosine_attn is not supported"):
        split(Attention(16, 4, scaled_cosine=True))
