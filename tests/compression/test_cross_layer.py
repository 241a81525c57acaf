import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.cross_layer import CrossLayer, block_shapes, consecutive_groups
from mmcompress.data.base import PairData
from mmcompress.modules.shared import SharedLinear, fitted_scale, share_linear

TRANSFORMS = ["none", "norms", "scale", "heads"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def blocks_of(backbone: Backbone, modality: str = "image") -> nn.ModuleList:
    tower = backbone.model.vision_model if modality == "image" else backbone.model.text_model
    return tower.encoder.layers


def apply(backbone: Backbone, data: PairData, **settings) -> Compressed:
    recipe = Recipe({"cross_layer": CrossLayer(share_every=2, **settings)})
    return recipe.apply(backbone, data.calibration_dataloader())


def test_consecutive_groups() -> None:
    assert consecutive_groups(6, 3) == [[0, 1, 2], [3, 4, 5]]
    assert consecutive_groups(3, 12) == [[0, 1, 2]]


def test_albert_is_one_block_with_the_mean_of_all_parameters(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    dense = [dict(block.named_parameters()) for block in copy.deepcopy(blocks_of(tiny_backbone))]
    apply(tiny_backbone, tiny_data)
    first, second = blocks_of(tiny_backbone)
    assert first is second
    for name, parameter in first.named_parameters():
        torch.testing.assert_close(parameter, (dense[0][name] + dense[1][name]) / 2)


def test_first_block_serves_all(tiny_backbone: Backbone, tiny_data: PairData) -> None:
    dense = copy.deepcopy(blocks_of(tiny_backbone)[0]).state_dict()
    apply(tiny_backbone, tiny_data, initial="first")
    for key, tensor in blocks_of(tiny_backbone)[1].state_dict().items():
        assert torch.equal(tensor, dense[key]), key


def test_norms_stay_with_their_layer(tiny_backbone: Backbone, tiny_data: PairData) -> None:
    apply(tiny_backbone, tiny_data, transform="norms")
    first, second = blocks_of(tiny_backbone)
    assert first.mlp.fc1 is second.mlp.fc1
    assert first.layer_norm1 is not second.layer_norm1


def test_towers_share_nothing_with_each_other(tiny_backbone: Backbone, tiny_data: PairData) -> None:
    apply(tiny_backbone, tiny_data)
    image, text = (blocks_of(tiny_backbone, m)[0] for m in ("image", "text"))
    assert not {id(m) for m in image.modules()} & {id(m) for m in text.modules()}


@pytest.mark.parametrize("transform", ["norms", "scale", "heads"])
def test_equal_blocks_are_shared_without_loss(
    transform: str, tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    """Shared weights of equal layers change nothing, whatever stands around them."""
    for modality in ("image", "text"):
        first, second = blocks_of(tiny_backbone, modality)
        second.load_state_dict(first.state_dict())
        second.layer_norm1.weight.data.mul_(1.3)
        if transform != "norms":
            second.mlp.fc1.weight.data.mul_(torch.linspace(0.5, 2.0, 64)[:, None])
            second.mlp.fc1.bias.data.add_(0.1)
    dense = copy.deepcopy(tiny_backbone)
    apply(tiny_backbone, tiny_data, transform=transform)
    batch = next(iter(tiny_data.eval_dataloader("test")))
    for modality in ("image", "text"):
        # rounding of the scales
        torch.testing.assert_close(
            tiny_backbone.encode(modality, batch[modality]),
            dense.encode(modality, batch[modality]),
            atol=1e-5,
            rtol=1e-4,
        )


def test_fitted_scale_is_least_squares() -> None:
    weight, shared = random(5, 7), random(5, 7, seed=1)
    expected = [
        float(torch.linalg.lstsq(shared[row][:, None], weight[row][:, None]).solution)
        for row in range(5)
    ]
    torch.testing.assert_close(fitted_scale(weight, shared), torch.tensor(expected))
    assert fitted_scale(weight, torch.zeros(5, 7)).tolist() == [1.0] * 5


def reference_forward(x: Tensor, layer: SharedLinear) -> Tensor:
    """Head g is Σ_h (δ_gh + F_gh) of the shared layer's heads, then scaled and shifted."""
    shared = x @ layer.shared.weight.T
    heads = len(layer.mix)
    width = layer.out_features // heads
    mixed = torch.zeros_like(shared)
    for g in range(heads):
        for h in range(heads):
            factor = float(g == h) + layer.mix[g, h]
            mixed[..., g * width : (g + 1) * width] += (
                factor * shared[..., h * width : (h + 1) * width]
            )
    return mixed * layer.scale + layer.bias


def test_heads_are_mixed() -> None:
    layers = [nn.Linear(6, 8), nn.Linear(6, 8)]
    for new in share_linear(layers, transform="heads", initial="mean", heads=4):
        new.mix.data.copy_(random(4, 4))
        x = random(3, 5, 6)
        torch.testing.assert_close(new(x), reference_forward(x, new))
        torch.testing.assert_close(x @ new.weight.T + new.bias, new(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_int4_afterwards_targets_the_shared_weight_once(
    transform: str, tiny_backbone: Backbone, tiny_data: PairData, tmp_path: Path
) -> None:
    steps = {
        "cross_layer": CrossLayer(share_every=2, transform=transform),
        "int4": Integer(bits=4, group_size=32, role=["attn.*", "mlp.*"]),
    }
    recipe = Recipe(steps)
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    plan = compressed.plan
    assert len(plan["int4"]) == 12  # six weights in each of two towers, not in each of four blocks
    compressed.finalize()
    artifact = compressed.save(tmp_path / "artifact", run={"config_hash": "", "recipe": "test"})
    stored = [row for row in artifact.ledger() if row.payload == "codes"]
    weights = sum(row.bytes for row in stored if row.role in ("mlp.up", "mlp.down", "attn.q"))
    # one block per tower in the file; four bits per weight and no more than the mask-free codes
    assert weights <= 2 * (2 * 32 * 64 + 32 * 32) // 2
    loaded = Artifact.load(tmp_path / "artifact").backbone
    batch = next(iter(tiny_data.eval_dataloader("test")))
    assert torch.equal(
        loaded.encode("image", batch["image"]), tiny_backbone.encode("image", batch["image"])
    )
    modules = dict(loaded.model.named_modules(remove_duplicate=False))
    suffix = ".shared" if transform in ("scale", "heads") else ""
    first, second = (modules[f"vision_model.encoder.layers.{i}.mlp.fc1{suffix}"] for i in range(2))
    assert first.weight is second.weight or first is second


def test_low_rank_factors_are_shared_after_low_rank(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    steps = {
        "lowrank": LowRank(rank_ratio=0.25, weighting="none", role="mlp.up"),
        "cross_layer": CrossLayer(share_every=2, transform="scale"),
    }
    Recipe(steps).apply(tiny_backbone, tiny_data.calibration_dataloader())
    first, second = blocks_of(tiny_backbone)
    assert first.mlp.fc1.u.shared is second.mlp.fc1.u.shared


def test_low_rank_after_sharing_stands_in_both_places(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    steps = {
        "cross_layer": CrossLayer(share_every=2, transform="norms"),
        "lowrank": LowRank(rank_ratio=0.25, role="mlp.up"),
    }
    plan = Recipe(steps).apply(tiny_backbone, tiny_data.calibration_dataloader()).plan
    assert len(plan["lowrank"]) == 2
    first, second = blocks_of(tiny_backbone)
    assert first.mlp.fc1 is second.mlp.fc1


def test_on_open_clip(tiny_open_clip: OpenClip) -> None:
    recipe = Recipe({"cross_layer": CrossLayer(share_every=2, transform="heads")})
    recipe.apply(tiny_open_clip, [])
    first, second = tiny_open_clip.model.transformer.resblocks
    assert first.attn.q_proj.shared is second.attn.q_proj.shared
    assert first.attn.q_proj.mix.shape == (2, 2)
    assert torch.isfinite(tiny_open_clip.encode("text", tiny_open_clip.tokenize(["a cat"]))).all()


def test_explicit_groups_and_what_is_left_dense(
    tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    stack = "vision_model.encoder.layers"
    weights = {f"{stack}.{i}.fc.weight": random(4, 4 + i // 3) for i in range(4)}
    shapes = block_shapes(stack, weights)
    assert CrossLayer(groups=[[0, 2]])._decide(stack, shapes)["groups"] == [[0, 2]]
    assert LEFT_DENSE in CrossLayer(groups=[[0]])._decide(stack, shapes)
    unequal = CrossLayer(groups=[[0, 3]])._decide(stack, shapes)
    assert unequal[LEFT_DENSE] == "blocks 0 and 3 differ in their shapes"
    with pytest.raises(ValueError, match=r"groups name block 7 and .* has 4 blocks"):
        CrossLayer(groups=[[0, 7]])._decide(stack, shapes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "needs share_every or groups"),
        ({"share_every": 1}, "share_every=1 must be at least 2"),
        ({"share_every": 2, "transform": "conv"}, "transform='conv' must be one of none, norms"),
        ({"share_every": 2, "initial": "last"}, "initial='last' must be one of mean, first"),
        ({"groups": [[0, 1], [1, 2]]}, "name a block twice"),
    ],
)
def test_bad_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossLayer(**settings)


def test_a_budget_varies_share_every() -> None:
    varied = CrossLayer(groups=[[0, 1]], transform="scale").varied(share_every=3)
    assert (varied.share_every, varied.groups, varied.transform) == (3, None, "scale")
