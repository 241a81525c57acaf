"""Parts of transformer blocks, by both libraries' names."""

import pytest
from torch import nn

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.modules.anatomy import (
    MlpParts,
    attention_of,
    find_stacks,
    heads_in,
    heads_of,
    is_rotary,
    mlp_of,
    mlp_parts,
)
from mmcompress.testing.zoo.language import build_language_model


@pytest.fixture(params=["hf_clip", "open_clip"])
def backbone(
    request: pytest.FixtureRequest, tiny_backbone: HFClip, tiny_open_clip: OpenClip
) -> HFClip | OpenClip:
    return tiny_backbone if request.param == "hf_clip" else tiny_open_clip


def test_units_cover_both_towers(backbone: HFClip | OpenClip) -> None:
    units = backbone.units()
    for modality in ("image", "text"):
        count = {
            kind: sum(u.granularity == kind and u.modality == modality for u in units)
            for kind in ("stack", "block", "attention", "mlp")
        }
        assert count["stack"] == 1
        assert count["block"] == count["attention"] == count["mlp"] > 1
    assert [u.name for u in units if u.granularity == "model"] == [""]
    for unit in units:
        assert isinstance(backbone.model.get_submodule(unit.module), nn.Module)


def test_roles_lie_inside_their_units(backbone: HFClip | OpenClip) -> None:
    roles = {t.name: t.role for t in backbone.targets()}
    for unit in backbone.units():
        inside = {role for name, role in roles.items() if name.startswith(f"{unit.module}.")}
        if unit.granularity == "attention":
            assert inside == {"attn.q", "attn.k", "attn.v", "attn.out"}
        if unit.granularity == "mlp":
            assert inside == {"mlp.up", "mlp.down"}


def test_parts_name_layers(backbone: HFClip | OpenClip) -> None:
    _, stack = next(find_stacks(backbone.model))
    _, mlp = mlp_of(stack[0])
    parts = mlp_parts(mlp)
    assert parts is not None
    assert mlp.get_submodule(parts.up).out_features == mlp.get_submodule(parts.down).in_features


def test_a_shared_block_is_listed_once(tiny_backbone: HFClip) -> None:
    before = len(tiny_backbone.units())
    layers = tiny_backbone.model.text_model.encoder.layers
    layers[1] = layers[0]
    assert len(tiny_backbone.units()) == before - 3


def test_a_block_without_attention_says_so() -> None:
    with pytest.raises(ValueError, match="Sequential holds no attention"):
        attention_of(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_language_model_with_gates_and_shared_keys_has_all_units(kind: str) -> None:
    """Four heads of q, two of k and v; no bias in a norm."""
    model = build_language_model(kind)
    ((path, stack),) = find_stacks(model)
    assert (path, len(stack)) == ("model.layers", 3)
    name, attention = attention_of(stack[0])
    assert (name, heads_of(attention)) == ("self_attn", 2)
    assert [heads_in(attention, n) for n in ("q_proj", "k_proj", "v_proj")] == [4, 2, 2]
    assert is_rotary(attention)
    _, mlp = mlp_of(stack[0])
    assert mlp_parts(mlp) == MlpParts("up_proj", "down_proj", gate="gate_proj")
