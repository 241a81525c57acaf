"""The Hugging Face adapter against transformers itself."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

from mmcompress.backbones.hf.clip import HFClip

TEXTS = ["red cat", "a blue dog", ""]


@pytest.fixture
def folder(tiny_backbone: HFClip, tmp_path: Path) -> Path:
    """As `save_pretrained` and a tokenizer leave it."""
    tiny_backbone.model.save_pretrained(tmp_path)
    tiny_backbone.save_assets(tmp_path)
    return tmp_path


def test_equals_transformers(tiny_backbone: HFClip):
    model = tiny_backbone.model
    pixels, ids = torch.randn(3, 3, 32, 32), tiny_backbone.tokenize(TEXTS)
    with torch.no_grad():
        images = model.get_image_features(pixel_values=pixels).pooler_output
        texts = model.get_text_features(input_ids=ids).pooler_output
        output = model(pixel_values=pixels, input_ids=ids)
        assert torch.equal(tiny_backbone.encode_image(pixels), images)
        assert torch.equal(tiny_backbone.encode_text(ids), texts)
        image, text = (tiny_backbone.encode(m, x) for m, x in [("image", pixels), ("text", ids)])
        logits = tiny_backbone.logit_scale * image @ text.T
    # float32; transformers normalizes and multiplies in another order, logits are below 15.
    torch.testing.assert_close(logits, output.logits_per_image, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(image, output.image_embeds)


def test_every_dense_weight_is_a_target(tiny_backbone: HFClip):
    parameters = dict(tiny_backbone.model.named_parameters())
    targets = {t.name: t for t in tiny_backbone.targets()}
    assert set(targets) == {name for name, p in parameters.items() if p.ndim >= 2}
    assert len(targets) == 2 * 2 * 6 + 6
    for name, target in targets.items():
        image = name.startswith(("vision_model.", "visual_projection."))
        assert target.modality == ("image" if image else "text") == tiny_backbone.modality_of(name)
    roles = {name: (t.role, t.granularity) for name, t in targets.items()}
    for tower in "vision_model", "text_model":
        layer = f"{tower}.encoder.layers.1"
        for short, name in [("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "out_proj")]:
            assert roles[f"{layer}.self_attn.{name}.weight"] == (f"attn.{short}", "linear")
        assert roles[f"{layer}.mlp.fc1.weight"] == ("mlp.up", "linear")
        assert roles[f"{layer}.mlp.fc2.weight"] == ("mlp.down", "linear")
        position = f"{tower}.embeddings.position_embedding.weight"
        assert roles[position] == ("position", "embedding")
    assert roles["vision_model.embeddings.patch_embedding.weight"] == ("patch", "conv")
    assert roles["text_model.embeddings.token_embedding.weight"] == ("embed", "embedding")
    assert (
        roles["visual_projection.weight"] == roles["text_projection.weight"] == ("proj", "linear")
    )
    shared = {name for name in parameters if tiny_backbone.modality_of(name) == "shared"}
    assert shared == {"logit_scale"}


def test_tokens(tiny_backbone: HFClip):
    ids = tiny_backbone.tokenize(["red cat", "cat " * 20])
    bos, eos, pad = range(3)
    red, cat = 3, 7
    assert ids.tolist() == [[bos, red, cat, eos, *[pad] * 4], [bos, *[cat] * 6, eos]]
    assert tiny_backbone.valid_tokens("text", ids).sum(dim=1).tolist() == [4, 8]
    assert tiny_backbone.valid_tokens("image", torch.zeros(2, 3, 32, 32)) is None
    assert tiny_backbone.tokenize(["red cat"]).shape == (1, 4)  # no longer than its longest


def test_padding_changes_nothing(tiny_backbone: HFClip):
    alone, padded = (
        tiny_backbone.tokenize(["red cat"]),
        tiny_backbone.tokenize(["red cat", "red " * 9]),
    )
    with torch.no_grad():
        expected = tiny_backbone.encode_text(alone)[0]
        # float32, matrix products of another height
        torch.testing.assert_close(
            tiny_backbone.encode_text(padded)[0], expected, rtol=1e-5, atol=1e-6
        )


def test_end_of_old_configurations(tiny_backbone: HFClip):
    """eos_token_id = 2 means the largest id, which is what the padding repeats."""
    config = tiny_backbone.model.config
    config.text_config.eos_token_id = 2
    old = HFClip(CLIPModel(config), tiny_backbone.tokenizer)
    ids = torch.tensor([[0, 5, 9, 60, 60, 60], [0, 60, 60, 60, 60, 60]])
    assert old.valid_tokens("text", ids).sum(dim=1).tolist() == [4, 2]
    other = ids.clone()
    other[0, 4:] = 1  # behind the end
    with torch.no_grad():
        torch.testing.assert_close(old.encode_text(other), old.encode_text(ids))


def test_from_pretrained(tiny_backbone: HFClip, folder: Path):
    loaded = HFClip.from_pretrained(str(folder))
    state = loaded.model.state_dict()
    for name, tensor in tiny_backbone.model.state_dict().items():
        assert torch.equal(state[name], tensor)
    assert torch.equal(loaded.tokenize(TEXTS), tiny_backbone.tokenize(TEXTS))
    assert not loaded.model.training
    pixels = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    torch.testing.assert_close(loaded.preprocess(pixels), tiny_backbone.preprocess(pixels))
    preprocessing = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing))
    loaded = HFClip.from_pretrained(str(folder))
    settings = loaded.spec["image_processor"]
    assert preprocessing.items() <= settings.items()
    assert settings["size"] == {"shortest_edge": 32}


def test_half_precision_weights_become_float32(tiny_backbone: HFClip, folder: Path):
    tiny_backbone.model.half().save_pretrained(folder)
    assert HFClip.from_pretrained(str(folder)).model.dtype == torch.float32


def test_the_skeleton_follows_from_the_spec(tiny_backbone: HFClip, tmp_path: Path):
    assert tiny_backbone.save_assets(tmp_path) == ["tokenizer.json"]
    spec = json.loads(json.dumps(tiny_backbone.spec))
    with torch.device("meta"):
        skeleton = HFClip.from_spec(spec, tmp_path)
    shapes = {name: tensor.shape for name, tensor in tiny_backbone.model.state_dict().items()}
    assert {name: t.shape for name, t in skeleton.model.state_dict().items()} == shapes
    assert all(p.is_meta for p in skeleton.model.parameters())
    assert skeleton.spec == tiny_backbone.spec
    rebuilt = HFClip.from_spec(spec, tmp_path).eval()
    rebuilt.model.load_state_dict(tiny_backbone.model.state_dict())
    ids = tiny_backbone.tokenize(TEXTS)
    assert torch.equal(rebuilt.tokenize(TEXTS), ids)
    with torch.no_grad():
        assert torch.equal(rebuilt.encode_text(ids), tiny_backbone.encode_text(ids))


def break_nothing(folder: Path) -> None:
    """An empty folder."""
    for file in folder.iterdir():
        file.unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "clip"')


def break_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def other_architecture(folder: Path) -> None:
    BertModel(
        BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(folder)


@pytest.mark.parametrize(
    "damage", [break_nothing, break_config, break_weights, break_tokenizer, other_architecture]
)
@pytest.mark.filterwarnings("ignore")  # transformers warns, and then loads what it can
def test_folders_that_cannot_be_loaded(folder: Path, damage: Callable[[Path], None]):
    damage(folder)
    with pytest.raises(ValueError, match=r"backbone\.name_or_path=.*CLIPModel") as error:
        HFClip.from_pretrained(str(folder))
    assert "\n" not in str(error.value)


def test_a_missing_weight(folder: Path):
    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights are missing \(visual_projection.weight"):
        HFClip.from_pretrained(str(folder))


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mmcompress.backbones.hf.files.hub_reachable", lambda: False)
    with pytest.raises(
        ValueError, match=r"'no/such' is no folder, .* the hub cannot be reached: give"
    ):
        HFClip.from_pretrained("no/such")


@pytest.mark.parametrize(
    ("tower", "key", "value", "message"),
    [
        ("text_config", "eos_token_id", [1, 2], r"eos_token_id=\[1, 2\] .* must be one token id"),
        ("vision_config", "image_size", [32, 64], r"image_size=.* must be one number"),
    ],
)
def test_configs_that_cannot_be_handled(
    tiny_backbone: HFClip, tower: str, key: str, value: list[int], message: str
):
    config = CLIPConfig.from_dict(tiny_backbone.spec["config"])
    model = CLIPModel(config)
    setattr(getattr(config, tower), key, value)
    with pytest.raises(ValueError, match=message):
        HFClip(model, tiny_backbone.tokenizer)
