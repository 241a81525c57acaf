import copy

import pytest
import torch
from torch import Tensor

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.calibration import collect
from mmcompress.compression.lowrank.joint_qkv import JointQKV
from mmcompress.compression.lowrank.svd import whitening_root
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData


def attention_of(backbone: Backbone):
    return backbone.model.vision_model.encoder.layers[0].self_attn


def stacked(attention) -> Tensor:
    return torch.cat(
        [getattr(attention, f"{part}_proj").weight.detach() for part in ("q", "k", "v")]
    ).double()


def test_plain_error_is_the_tail_of_the_stacked_spectrum(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    dense = stacked(attention_of(tiny_backbone))
    joint = JointQKV(rank_ratio=0.25, weighting="none")
    Recipe({"joint": joint}).apply(tiny_backbone, tiny_data.calibration_dataloader())
    attention = attention_of(tiny_backbone)
    assert attention.q_proj.v is attention.k_proj.v is attention.v_proj.v
    error = (dense - stacked(attention)).square().sum()
    tail = torch.linalg.svdvals(dense)[8:].square().sum()
    torch.testing.assert_close(error, tail, atol=0, rtol=1e-5)


def test_whitened_is_the_svd_of_the_stack_times_the_root(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    dense = stacked(attention_of(tiny_backbone))
    batches = list(tiny_data.calibration_dataloader())
    query = next(t for t in tiny_backbone.targets() if "vision" in t.name and "q_proj" in t.name)
    seen = collect(tiny_backbone, batches, [query])[query.name].inputs
    root = whitening_root(seen.second_moment)
    left, sigma, right = torch.linalg.svd(dense @ root, full_matrices=False)
    expected = left[:, :8] * sigma[:8] @ right[:8] @ torch.linalg.inv(root)
    Recipe({"joint": JointQKV(rank_ratio=0.25)}).apply(tiny_backbone, batches)
    torch.testing.assert_close(stacked(attention_of(tiny_backbone)), expected, atol=1e-6, rtol=1e-4)


def test_fisher_adds_up_over_the_three(tiny_backbone: Backbone, tiny_data: PairData) -> None:
    batches = list(tiny_data.calibration_dataloader())
    unit = next(t for t in tiny_backbone.units() if t.granularity == "attention")
    inside = [t for t in tiny_backbone.targets() if t.name.startswith(unit.name)]
    statistics = collect(tiny_backbone, batches, inside, ["gradients"])
    joined = JointQKV.statistic_for(unit, statistics)
    expected = sum(
        statistics[f"{unit.name}.{p}_proj.weight"].gradients.squared.sum(dim=0) for p in "qkv"
    )
    torch.testing.assert_close(joined.gradients.squared.sum(dim=0), expected)
    recipe = Recipe({"joint": JointQKV(rank_ratio=0.25, weighting="fisher")})
    recipe.apply(tiny_backbone, batches)
    assert torch.isfinite(tiny_backbone.encode("image", batches[0]["image"])).all()


def test_full_rank_changes_nothing(tiny_open_clip: OpenClip) -> None:
    """A stack of rank 8, factorized with rank 8 of 16."""
    for block in tiny_open_clip.model.transformer.resblocks:
        for part in "qkv":
            weight = getattr(block.attn, f"{part}_proj").weight.data
            weight[:, 8:] = 0.0
    dense = copy.deepcopy(tiny_open_clip)
    joint = JointQKV(rank_ratio=0.5, weighting="none", rank_multiple=1, modality="text")
    assert Recipe({"joint": joint}).apply(tiny_open_clip, []).plan["joint"]
    ids = tiny_open_clip.tokenize(["a red cat", "two"])
    # float32 factors
    torch.testing.assert_close(
        tiny_open_clip.encode("text", ids), dense.encode("text", ids), atol=1e-4, rtol=1e-3
    )


def test_integers_afterwards_store_the_shared_factor_once(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    recipe = Recipe(
        {"joint": JointQKV(rank_ratio=0.5), "int8": Integer(bits=8, role=["attn.q", "attn.k"])}
    )
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    plan = compressed.plan
    prefix = "vision_model.encoder.layers.0.self_attn."
    factors = [n.removeprefix(prefix) for n in plan["int8"] if n.startswith(prefix)]
    # In module order k comes first, and with it the factor that q and v share.
    assert sorted(factors) == [
        "k_proj.u.weight",
        "k_proj.v.weight",
        "q_proj.u.weight",
    ]


def test_what_is_left_dense(tiny_backbone: Backbone) -> None:
    joint = JointQKV(rank_ratio=0.9, weighting="none", rank_multiple=1)
    matrices = [torch.randn(8, 8)] * 3
    assert "would not shrink 24x8" in joint._decide_jointly(matrices, None)[LEFT_DENSE]
    unequal = [torch.randn(8, 8), torch.randn(8, 6), torch.randn(8, 6)]
    assert "different widths" in joint._decide_jointly(unequal, None)[LEFT_DENSE]
    assert "not three linear" in joint._decide_jointly([], None)[LEFT_DENSE]


def test_bad_rank_ratio() -> None:
    with pytest.raises(ValueError, match="rank_ratio=2"):
        JointQKV(rank_ratio=2)
