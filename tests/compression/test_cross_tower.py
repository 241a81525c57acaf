import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.compression.base import LEFT_DENSE
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.sharing.cross_layer import CrossLayer
from mmcompress.compression.sharing.cross_tower import CrossTower
from mmcompress.data.base import PairData

LINEARS = ["self_attn.q_proj", "self_attn.v_proj", "mlp.fc1", "mlp.fc2"]


def towers(backbone: Backbone):
    return backbone.model.vision_model.encoder.layers, backbone.model.text_model.encoder.layers


def blocks(*shapes: tuple[int, int]) -> dict[int, dict[str, tuple[int, ...]]]:
    return {i: {"fc1": shape, "fc2": (8, 8)} for i, shape in enumerate(shapes)}


@pytest.mark.parametrize("path", LINEARS)
def test_pairs_share_the_mean(path: str, tiny_backbone: Backbone, tiny_data: PairData) -> None:
    dense = copy.deepcopy(tiny_backbone)
    Recipe({"cross_tower": CrossTower()}).apply(tiny_backbone, [])
    for i in range(2):
        image, text = (tower[i].get_submodule(path) for tower in towers(tiny_backbone))
        before = [tower[i].get_submodule(path) for tower in towers(dense)]
        assert image is text
        torch.testing.assert_close(image.weight, (before[0].weight + before[1].weight) / 2)
        torch.testing.assert_close(image.bias, (before[0].bias + before[1].bias) / 2)


def test_norms_and_the_rest_stay_apart(tiny_backbone: Backbone) -> None:
    dense = copy.deepcopy(tiny_backbone).model.state_dict()
    Recipe({"cross_tower": CrossTower()}).apply(tiny_backbone, [])
    image, text = towers(tiny_backbone)
    assert image[0].layer_norm1 is not text[0].layer_norm1
    for key, tensor in tiny_backbone.model.state_dict().items():
        if ".layers." not in key or "norm" in key:
            assert torch.equal(tensor, dense[key]), key


@pytest.mark.parametrize("transform", ["norms", "scale"])
def test_equal_towers_are_shared_without_loss(
    transform: str, tiny_backbone: Backbone, tiny_data: PairData
) -> None:
    for image, text in zip(*towers(tiny_backbone), strict=True):
        text.load_state_dict(image.state_dict())
        if transform == "scale":
            text.mlp.fc2.weight.data.mul_(0.25)
            text.mlp.fc2.bias.data.sub_(0.5)
    dense = copy.deepcopy(tiny_backbone)
    Recipe({"cross_tower": CrossTower(transform=transform)}).apply(tiny_backbone, [])
    batch = next(iter(tiny_data.eval_dataloader("test")))
    for modality in ("image", "text"):
        # rounding of the scales
        torch.testing.assert_close(
            tiny_backbone.encode(modality, batch[modality]),
            dense.encode(modality, batch[modality]),
            atol=1e-5,
            rtol=1e-4,
        )


def embeddings(backbone: Backbone, data: PairData) -> Tensor:
    batch = next(iter(data.eval_dataloader("test")))
    return torch.cat([backbone.encode(m, batch[m]) for m in ("image", "text")])


@pytest.mark.parametrize("layers", ["none", "norms"])
def test_one_block_for_all_layers_of_both_towers(
    layers: str, tiny_backbone: Backbone, tiny_data: PairData, tmp_path: Path
) -> None:
    """Shared within towers, then between them, then in 4 bits: stored once, reloaded exactly."""
    recipe = Recipe(
        {
            "cross_layer": CrossLayer(share_every=2, transform=layers),
            "cross_tower": CrossTower(),
            "int4": Integer(bits=4, group_size=32, role=["attn.*", "mlp.*"]),
        }
    )
    compressed = recipe.apply(tiny_backbone, tiny_data.calibration_dataloader())
    plan = compressed.plan
    assert len(plan["int4"]) == 6
    compressed.finalize()
    compressed.save(tmp_path / "artifact", run={"config_hash": "", "recipe": "test"})
    loaded = Artifact.load(tmp_path / "artifact").backbone
    assert torch.equal(embeddings(loaded, tiny_data), embeddings(tiny_backbone, tiny_data))


def test_on_open_clip(tiny_open_clip: OpenClip) -> None:
    Recipe({"cross_tower": CrossTower(transform="scale")}).apply(tiny_open_clip, [])
    model = tiny_open_clip.model
    image, text = model.visual.transformer.resblocks[1], model.transformer.resblocks[1]
    assert image.attn.q_proj.shared is text.attn.q_proj.shared
    assert image.mlp.c_fc.shared is text.mlp.c_fc.shared
    assert torch.isfinite(tiny_open_clip.encode("text", tiny_open_clip.tokenize(["a cat"]))).all()


def test_unequal_depth_and_width() -> None:
    deep, shallow = blocks((8, 4), (8, 4), (8, 4)), blocks((8, 4), (8, 4))
    assert CrossTower()._decide({"a": deep, "b": shallow})["pairs"] == [[0, 0], [1, 1]]
    last = CrossTower(align="last")._decide({"a": deep, "b": shallow})
    assert last["pairs"] == [[1, 0], [2, 1]]
    wide = CrossTower()._decide({"a": deep, "b": blocks((8, 6), (8, 6))})
    assert wide["layers"] == ["fc2"]


def test_what_is_left_dense() -> None:
    assert "1 stacks" in CrossTower()._decide({"a": blocks((8, 4))})[LEFT_DENSE]
    unequal = {"a": {0: {"fc": (2, 2)}}, "b": {0: {"fc": (3, 2)}}}
    assert "no layer of one shape" in CrossTower()._decide(unequal)[LEFT_DENSE]


def test_one_tower_alone_cannot_be_selected(tiny_backbone: Backbone) -> None:
    with pytest.raises(ValueError, match=r"none of the .* passes modality"):
        Recipe({"cross_tower": CrossTower(modality="image")}).apply(tiny_backbone, [])


@pytest.mark.parametrize(
    "settings", [{"transform": "none"}, {"initial": "text"}, {"align": "middle"}]
)
def test_bad_settings(settings: dict) -> None:
    (name, value), *_ = settings.items()
    with pytest.raises(ValueError, match=f"{name}='{value}' must be one of"):
        CrossTower(**settings)
