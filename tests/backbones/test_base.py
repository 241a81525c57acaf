"""What every adapter inherits: targets after surgery, modalities, encoding."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from mmcompress.backbones.base import Target
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.open_clip.backbone import OpenClip

UP = "vision_model.encoder.layers.0.mlp.fc1"


class Factors(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.u = nn.Linear(2, layer.out_features)
        self.v = nn.Linear(layer.in_features, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.u(self.v(x))


class Halve(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / 2


@pytest.fixture
def small_open_clip() -> OpenClip:
    import open_clip

    tower = {"width": 16, "layers": 1}
    config = {
        "embed_dim": 8,
        "vision_cfg": tower | {"image_size": 32, "patch_size": 16, "head_width": 8},
        "text_cfg": tower | {"vocab_size": 49408, "heads": 2},
    }
    return OpenClip(open_clip.CLIP(**config), name="small", config=config)


def test_names():
    assert Target("a.b", "weight", "image", "proj", "linear").name == "a.b.weight"
    assert Target("", "text_projection", "text", "proj", "matrix").name == "text_projection"


def test_names_are_keys_of_the_state_dict(tiny_backbone: HFClip, small_open_clip: OpenClip):
    for backbone in (tiny_backbone, small_open_clip):
        names = [target.name for target in backbone.targets()]
        assert len(names) == len(set(names))
        assert set(names) <= set(backbone.model.state_dict())


def test_factors_inherit_the_role_of_their_layer(tiny_backbone: HFClip):
    before = tiny_backbone.targets()
    tiny_backbone.model.set_submodule(UP, Factors(tiny_backbone.model.get_submodule(UP)))
    after = tiny_backbone.targets()
    new = [Target(f"{UP}.{part}", "weight", "image", "mlp.up", "linear") for part in ("u", "v")]
    at = next(i for i, target in enumerate(before) if target.module == UP)
    assert after == before[:at] + new + before[at + 1 :]


def test_parametrized_weights_keep_their_place_and_name(
    tiny_backbone: HFClip, small_open_clip: OpenClip
):
    for backbone in (tiny_backbone, small_open_clip):
        before = backbone.targets()
        for target in before:
            module = backbone.model.get_submodule(target.module)
            parametrize.register_parametrization(module, target.parameter, Halve())
            parametrize.register_parametrization(module, target.parameter, Halve())
        assert backbone.targets() == before
        assert all(isinstance(t, torch.Tensor) for t in map(weight_of(backbone), before))
        text = backbone.encode("text", backbone.tokenize(["red cat"]))
        image = backbone.encode("image", torch.randn(1, 3, 32, 32))
        assert (text @ image.T).isfinite().all()


def weight_of(backbone):
    return lambda t: getattr(backbone.model.get_submodule(t.module), t.parameter)


def test_encode(tiny_backbone: HFClip):
    pixels = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        found, features = tiny_backbone.encode("image", pixels), tiny_backbone.encode_image(pixels)
    assert found.shape == (4, 32)
    torch.testing.assert_close(found, features / features.norm(dim=1, keepdim=True))
    with pytest.raises(ValueError, match=r"no modality 'audio'; it has \('image', 'text'\)"):
        tiny_backbone.encode("audio", pixels)


def test_modality_goes_by_the_start_of_a_name(tiny_backbone: HFClip):
    assert tiny_backbone.modality_of("vision_model.text_model.weight") == "image"
    assert tiny_backbone.modality_of("text_projection.weight") == "text"
    assert tiny_backbone.modality_of("logit_scale") == "shared"


def test_ids_without_an_embedding(tiny_backbone: HFClip) -> None:
    with pytest.raises(ValueError, match="text inputs hold ids up to 64, for which HFClip has no"):
        tiny_backbone.encode("text", torch.tensor([[0, 64, 1]]))
