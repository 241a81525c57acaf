"""Structures taken out of language models like Llama: what is left computes what the rest did."""

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.pruning.importance import importances
from mmcompress.compression.pruning.structure_masks import is_removable
from mmcompress.modules.anatomy import attention_of, find_stacks, heads_of, mlp_of
from mmcompress.modules.cuts import (
    check_attention,
    check_stack,
    keep_blocks,
    keep_head_dims,
    keep_heads,
    keep_neurons,
)
from mmcompress.modules.lowrank import LowRankLinear
from mmcompress.testing.contract import build_recipe
from mmcompress.testing.zoo.language import MODELS, build_language_model
from mmcompress.testing.zoo.vlm import build_vlm

IDS = torch.tensor([[3, 9, 27, 17], [5, 2, 63, 1]])


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    return build_language_model(request.param)


def blocks_of(model: nn.Module) -> nn.ModuleList:
    ((_, stack),) = find_stacks(model)
    return cast(nn.ModuleList, stack)


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(IDS, use_cache=False).logits


def assert_same(cut: nn.Module, silenced: nn.Module, dense: nn.Module) -> None:
    torch.testing.assert_close(logits(cut), logits(silenced), rtol=1e-4, atol=1e-5)
    assert (logits(cut) - logits(dense)).abs().max() > 1e-2, "what went made no difference"


def test_without_neurons_equals_silenced_neurons(model: nn.Module) -> None:
    """A neuron has a row in the gate too."""
    cut, silenced, kept = copy.deepcopy(model), copy.deepcopy(model), range(5, 48)
    for block in blocks_of(cut):
        mlp = keep_neurons(mlp_of(block)[1], kept)
        shapes = [tuple(mlp.get_submodule(n).weight.shape) for n in ("gate_proj", "up_proj")]
        assert shapes == [(43, 32), (43, 32)]
    for block in blocks_of(silenced):
        mlp_of(block)[1].down_proj.weight.data[:, :5] = 0
    assert_same(cut, silenced, model)


def test_without_a_shared_head_equals_its_silenced_readers(model: nn.Module) -> None:
    """The first of two heads of k and v goes, and the two heads of q that read it."""
    cut, silenced = copy.deepcopy(model), copy.deepcopy(model)
    for block in blocks_of(cut):
        attention = keep_heads(attention_of(block)[1], [1])
        names = ("q_proj", "k_proj", "v_proj")
        assert [attention.get_submodule(n).out_features for n in names] == [16, 8, 8]
        assert heads_of(attention) == 1
    for block in blocks_of(silenced):
        attention_of(block)[1].o_proj.weight.data[:, :16] = 0
    assert_same(cut, silenced, model)


def test_heads_of_low_rank_projections(model: nn.Module) -> None:
    """Factors of full rank compute what the layer did."""
    whole = copy.deepcopy(model)
    for block in blocks_of(model):
        attention = attention_of(block)[1]
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            layer = attention.get_submodule(name)
            low = LowRankLinear(layer, min(layer.weight.shape))
            u, s, vt = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
            low.set_factors(u * s, vt)
            attention.set_submodule(name, low)
    for both in (model, whole):
        for block in blocks_of(both):
            keep_heads(attention_of(block)[1], [0])
    torch.testing.assert_close(logits(model), logits(whole), rtol=1e-3, atol=1e-4)


def test_without_blocks_equals_blocks_that_add_nothing(model: nn.Module) -> None:
    cut, silenced = copy.deepcopy(model), copy.deepcopy(model)
    cut.model.layers = keep_blocks(blocks_of(cut), [0, 2])
    for last in ("self_attn.o_proj", "mlp.down_proj"):
        layer = blocks_of(silenced)[1].get_submodule(last)
        for parameter in layer.parameters():
            parameter.data.zero_()
    assert_same(cut, silenced, model)


def test_importance_of_a_shared_head_by_hand() -> None:
    """Ones everywhere: a head owns 16 rows of q, 8 of k and v each, and 16 columns of out."""
    attention = attention_of(blocks_of(build_language_model("llama"))[0])[1]
    target = Target("a", "", "text", "attention", "attention", heads_of(attention))
    weights = {f"a.{n}": torch.ones_like(w) for n, w in attention.named_parameters()}
    found = importances(target, weights, {}, "magnitude")
    assert found.tolist() == [(16 + 8 + 8 + 16) * 32] * 2


def test_dimensions_of_rotated_heads_stay(model: nn.Module) -> None:
    for settings in ({}, {"num_key_value_heads": 4}):
        alone = attention_of(blocks_of(build_language_model("llama", **settings))[0])[1]
        with pytest.raises(ValueError, match="heads of LlamaAttention are rotated by position"):
            keep_head_dims(alone, [0, 1])
    attention = attention_of(blocks_of(model)[0])[1]
    check_attention(attention)
    with pytest.raises(ValueError, match=r"q_norm .* depends on all|rotated by position"):
        keep_head_dims(attention, [0, 1])
    assert not is_removable(attention)
    assert not is_removable(mlp_of(blocks_of(model)[0])[1])


def test_blocks_that_are_known_by_their_place_stay() -> None:
    model = build_language_model("qwen2", use_sliding_window=True, max_window_layers=1)
    with pytest.raises(ValueError, match="blocks of x see different windows"):
        check_stack("x", blocks_of(model))
    assert check_stack("x", blocks_of(build_language_model("qwen2"))) == ["x.0", "x.1", "x.2"]


def test_a_parameter_for_each_head_is_a_reason_to_refuse(model: nn.Module) -> None:
    attention = attention_of(blocks_of(model)[0])[1]
    attention.sinks = nn.Parameter(torch.zeros(4))
    with pytest.raises(ValueError, match=r"sinks in .* depends on all its heads"):
        check_attention(attention)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_blocks_that_the_tower_knows_by_their_place_stay(kind: str) -> None:
    backbone = build_vlm(kind)
    with pytest.raises(ValueError, match=r"model.visual.blocks by their place \(\w+_indexes\), so"):
        build_recipe("blocks").check(backbone)
    build_recipe("blocks", "compression.steps.blocks.part=language_model").check(backbone)
