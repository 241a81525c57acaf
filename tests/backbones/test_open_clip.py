"""The open_clip adapter against the untouched models of open_clip."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from mmcompress.artifact.artifact import Artifact
from mmcompress.backbones.images import INTERPOLATIONS, RESIZE_MODES
from mmcompress.backbones.open_clip import OpenClip, unsupported
from mmcompress.compression.lowrank.lowrank import LowRank
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe

# float32 over two layers; the fused kernels add in another order than the explicit ones.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}

PLAIN = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 2, "width": 32, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
CUSTOM_BLOCK = {"qk_norm": True, "scale_heads": True, "scale_attn_inner": True, "scale_fc": True}


def config(vision: dict | None = None, text: dict | None = None, **rest: Any) -> dict[str, Any]:
    changed = copy.deepcopy(PLAIN) | rest
    changed["vision_cfg"].update(vision or {})
    changed["text_cfg"].update(text or {})
    return changed


CONFIGS = {
    "plain": config(),
    "quickgelu": config(quick_gelu=True),
    "layer_scale": config(vision={"ls_init_value": 0.5}, text={"ls_init_value": 0.5}),
    "average_pool": config(vision={"pool_type": "avg", "final_ln_after_pool": True}),
    "pooler": config(vision={"attentional_pool": True, "attn_pooler_heads": 4}),
    "custom_text": config(custom_text=True),
    "projection_with_bias": config(custom_text=True, text={"proj_bias": True}),
    "no_projection": config(custom_text=True, embed_dim=16, text={"proj_type": "none"}),
    "eos_pool": config(text={"pool_type": "eos", "eos_id": 49407}),
    "two_way_text": config(text={"no_causal_mask": True, "pool_type": "last"}),
    "custom_block": config(vision=CUSTOM_BLOCK, text=CUSTOM_BLOCK),
}


def untouched(cfg: dict[str, Any], seed: int = 0) -> nn.Module:
    arguments = {key: value for key, value in cfg.items() if key != "custom_text"}
    torch.manual_seed(seed)
    model = (open_clip.CustomTextCLIP if "custom_text" in cfg else open_clip.CLIP)(**arguments)
    for name, parameter in model.named_parameters():
        if name.endswith("in_proj_bias"):  # zero at first, which would hide a mix-up
            nn.init.normal_(parameter)
    return model.eval()


def adapt(cfg: dict[str, Any]) -> OpenClip:
    return OpenClip(untouched(cfg), name="small", config=cfg)


@pytest.fixture(params=CONFIGS)
def cfg(request: pytest.FixtureRequest) -> dict[str, Any]:
    return copy.deepcopy(CONFIGS[request.param])


@pytest.fixture
def plain() -> OpenClip:
    return adapt(config())


TEXTS = ["a red cat", "two dogs in front of a house", ""]


def test_equals_the_untouched_model(cfg: dict[str, Any]):
    reference, backbone = untouched(cfg), adapt(cfg)
    pixels, ids = torch.randn(3, 3, 32, 32), backbone.tokenize(TEXTS)
    for training in (False, True):
        reference.train(training)
        backbone.train(training)
        with torch.no_grad():
            expected = reference.encode_image(pixels), reference.encode_text(ids)
            found = backbone.encode_image(pixels), backbone.encode_text(ids)
        torch.testing.assert_close(found, expected, **TOLERANCE)
    torch.testing.assert_close(backbone.encode("text", ids).norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(backbone.logit_scale, torch.tensor(1 / 0.07))


def test_every_dense_weight_is_a_target(cfg: dict[str, Any]):
    backbone = adapt(cfg)
    parameters = dict(backbone.model.named_parameters())
    # One number per head, (heads, 1, 1), is a vector and no matrix.
    matrices = {n for n, p in parameters.items() if p.squeeze().ndim >= 2}
    assert not any("in_proj" in name for name in parameters)
    targets = {target.name: target for target in backbone.targets()}
    assert set(targets) == matrices
    for name, target in targets.items():
        assert target.modality == ("image" if name.startswith("visual.") else "text")
        assert target.modality == backbone.modality_of(name)
    shared = {n for n in parameters if backbone.modality_of(n) == "shared"}
    assert shared == {"logit_scale"}


def test_roles(plain: OpenClip):
    found = {t.name: (t.modality, t.role, t.granularity) for t in plain.targets()}
    block = "transformer.resblocks.1"
    assert len(found) == 2 * 2 * 6 + 6
    for prefix, modality in [("visual.", "image"), ("", "text")]:
        for layer in "q", "k", "v", "out":
            expected = (modality, f"attn.{layer}", "linear")
            assert found[f"{prefix}{block}.attn.{layer}.weight"] == expected
        assert found[f"{prefix}{block}.mlp.c_fc.weight"] == (modality, "mlp.up", "linear")
        assert found[f"{prefix}{block}.mlp.c_proj.weight"] == (modality, "mlp.down", "linear")
        assert found[f"{prefix}positional_embedding"] == (modality, "position", "matrix")
    assert found["visual.conv1.weight"] == ("image", "patch", "conv")
    assert found["visual.proj"] == ("image", "proj", "matrix")
    assert found["token_embedding.weight"] == ("text", "embed", "embedding")
    assert found["text_projection"] == ("text", "proj", "matrix")
    custom = {t.name: t.modality for t in adapt(CONFIGS["projection_with_bias"]).targets()}
    assert custom["text.text_projection.weight"] == "text"
    assert custom["text.transformer.resblocks.0.attn.q.weight"] == "text"


def test_every_layer_runs(plain: OpenClip):
    seen = set()
    for target in plain.targets():
        if target.granularity != "matrix":
            module = plain.model.get_submodule(target.module)
            module.register_forward_hook(lambda *_, name=target.name: seen.add(name))
    plain.encode_image(torch.randn(1, 3, 32, 32))
    plain.encode_text(plain.tokenize(["a cat"]))
    assert seen == {t.name for t in plain.targets() if t.granularity != "matrix"}


def test_a_layer_can_be_replaced(plain: OpenClip):
    """open_clip asks `mlp.c_fc.weight` for its dtype, also of a module that is no Linear."""

    class Factors(nn.Module):
        def __init__(self, layer: nn.Linear) -> None:
            super().__init__()
            self.u = nn.Linear(2, layer.out_features)
            self.v = nn.Linear(layer.in_features, 2, bias=False)

        @property
        def weight(self) -> torch.Tensor:
            return self.u.weight @ self.v.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.u(self.v(x))

    mlp = plain.model.transformer.resblocks[0].mlp
    mlp.c_fc = Factors(mlp.c_fc)
    features = plain.encode_text(plain.tokenize(["a cat"]))
    assert features.isfinite().all()
    factors = {
        t.name: t.role
        for t in plain.targets()
        if "resblocks.0.mlp.c_fc" in t.name and t.modality == "text"
    }
    stem = "transformer.resblocks.0.mlp.c_fc"
    assert factors == {f"{stem}.u.weight": "mlp.up", f"{stem}.v.weight": "mlp.up"}


def test_the_skeleton_follows_from_the_spec(cfg: dict[str, Any], tmp_path: Path):
    backbone = adapt(cfg)
    assert backbone.save_assets(tmp_path) == []
    spec = json.loads(json.dumps(backbone.spec))
    with torch.device("meta"):
        skeleton = OpenClip.from_spec(spec, tmp_path)
    shapes = {name: tensor.shape for name, tensor in backbone.model.state_dict().items()}
    assert {name: t.shape for name, t in skeleton.model.state_dict().items()} == shapes
    assert all(p.is_meta for p in skeleton.model.parameters())
    assert skeleton.spec == backbone.spec
    rebuilt = OpenClip.from_spec(spec, tmp_path).eval()
    rebuilt.model.load_state_dict(backbone.model.state_dict())
    ids = backbone.tokenize(TEXTS)
    assert torch.equal(rebuilt.tokenize(TEXTS), ids)
    with torch.no_grad():
        assert torch.equal(rebuilt.encode_text(ids), backbone.encode_text(ids))


def test_compressed_stored_and_loaded(plain: OpenClip, tmp_path: Path):
    """Structure and values, on layers, the embedding, the convolution and bare matrices."""
    parameters = sum(p.numel() for p in plain.parameters())
    recipe = Recipe({"lowrank": LowRank(rank_ratio=0.25, rank_multiple=1), "int8": Integer(bits=8)})
    batch = {"image": torch.randn(8, 3, 32, 32), "text": plain.tokenize(TEXTS)}
    recipe.apply(plain, [batch])
    assert sum(p.numel() for p in plain.parameters()) < 0.5 * parameters
    Artifact.save(
        tmp_path / "artifact",
        plain,
        encodings=recipe.finalize(plain),
        structure=recipe.structure(),
        reasons=recipe.reasons(),
        dense_bytes=4 * parameters,
        dense_parameters=parameters,
        run={"config_hash": "0", "recipe": "test"},
    )
    loaded = Artifact.load(tmp_path / "artifact").backbone
    pixels, ids = torch.randn(2, 3, 32, 32), plain.tokenize(TEXTS[:2])
    assert torch.equal(loaded.tokenize(TEXTS[:2]), ids)
    with torch.no_grad():
        assert torch.equal(loaded.encode("image", pixels), plain.encode("image", pixels))
        assert torch.equal(loaded.encode("text", ids), plain.encode("text", ids))


def test_tokens(plain: OpenClip):
    ids = plain.tokenize(["a cat", "cat " * 50])
    assert ids.shape == (2, 16)
    start, end = 49406, 49407
    assert ids[0].tolist() == [start, 320, 2368, end, *[0] * 12]
    assert ids[1].tolist() == [start, *[2368] * 14, end]  # cut, but it still ends
    assert plain.valid_tokens("text", ids).sum(dim=1).tolist() == [4, 16]
    assert plain.valid_tokens("image", torch.zeros(2, 3, 32, 32)) is None
    eos = adapt(CONFIGS["eos_pool"])
    assert torch.equal(eos.valid_tokens("text", ids), plain.valid_tokens("text", ids))
    # Without a causal mask every token reads the padding.
    assert adapt(CONFIGS["two_way_text"]).valid_tokens("text", ids) is None


def test_padding_changes_nothing(plain: OpenClip):
    ids = plain.tokenize(["a cat"])
    other = ids.masked_fill(~plain.valid_tokens("text", ids), 7)
    with torch.no_grad():
        found = plain.encode_text(other)
    torch.testing.assert_close(found, plain.encode_text(ids).detach(), **TOLERANCE)


def test_full_size():
    """Random weights of the published architecture, made twice from the same seed."""
    name = "ViT-B-32"
    backbone = OpenClip.from_pretrained(name, seed=3)
    torch.manual_seed(3)
    reference = open_clip.create_model(name).eval()
    pixels, ids = torch.randn(2, 3, 224, 224), backbone.tokenize(TEXTS[:2])
    with torch.no_grad():
        expected = reference.encode_image(pixels), reference.encode_text(ids)
        found = backbone.encode_image(pixels), backbone.encode_text(ids)
    # float32 over twelve layers 768 wide: each adds rounding of about 1e-6 to features near 1.
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert torch.equal(ids, open_clip.get_tokenizer(name)(TEXTS[:2]))
    parameters = dict(backbone.model.named_parameters())
    dense = sum(p.numel() for p in parameters.values())
    targeted = sum(parameters[target.name].numel() for target in backbone.targets())
    assert dense == sum(p.numel() for p in reference.parameters()) == 151_277_313
    assert targeted / dense > 0.99
    assert len(backbone.targets()) == 2 * 12 * 6 + 6


def test_random_weights_depend_on_the_seed_alone(small_folder: str):
    models = [OpenClip.from_pretrained(small_folder, seed=seed).model for seed in (0, 0, 1)]
    weights = [model.visual.proj for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    before = torch.get_rng_state()
    OpenClip.from_pretrained(small_folder)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def small_folder(tmp_path: Path) -> str:
    preprocessing = {"mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2], "resize_mode": "squash"}
    stored = {"model_cfg": PLAIN, "preprocess_cfg": preprocessing}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(stored))
    return f"local-dir:{tmp_path}"


def test_weights_from_a_file(small_folder: str, tmp_path: Path):
    reference = untouched(PLAIN, seed=5)
    weights = tmp_path / "weights.pt"
    torch.save(reference.state_dict(), weights)
    backbone = OpenClip.from_pretrained(small_folder, pretrained=str(weights))
    assert backbone.spec["mean"] == [0.5, 0.5, 0.5]
    assert backbone.spec["resize_mode"] == "squash"
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference.encode_image(pixels)
        torch.testing.assert_close(backbone.encode_image(pixels), expected, **TOLERANCE)


def test_a_tag_brings_its_weights_activation_and_pixels(
    monkeypatch: pytest.MonkeyPatch, small_folder: str, tmp_path: Path
):
    """A made-up model with a made-up tag, its file as if downloaded."""
    asked = []
    weights = tmp_path / "open_clip_pytorch_model.bin"
    torch.save(untouched(PLAIN, seed=5).state_dict(), weights)

    def download(repository: str, file: str, local_files_only: bool) -> str:
        asked.append((repository, file, local_files_only))
        if file != weights.name:
            raise FileNotFoundError(file)
        return str(weights)

    tag = {"hf_hub": "someone/small/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3)}
    monkeypatch.setattr("mmcompress.backbones.open_clip.hf_hub_download", download)
    monkeypatch.setattr("mmcompress.backbones.open_clip.hub_reachable", lambda: True)
    monkeypatch.setattr(open_clip, "list_pretrained_tags_by_model", lambda name: ["tag"])
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda name, pretrained: tag)
    backbone = OpenClip.from_pretrained(small_folder, pretrained="tag")
    assert [file for _, file, _ in asked] == ["open_clip_model.safetensors", weights.name]
    assert asked[0][0] == "someone/small"
    assert asked[0][2] is False
    assert backbone.spec["mean"] == [0.1, 0.2, 0.3]
    assert backbone.spec["config"]["quick_gelu"] is True
    reference = untouched(config(quick_gelu=True), seed=5)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = reference.encode_image(pixels)
        torch.testing.assert_close(backbone.encode_image(pixels), expected, **TOLERANCE)


def test_supported_names():
    names = open_clip.list_models()
    plain = [name for name in names if not unsupported(open_clip.get_model_config(name))]
    assert {"ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336-quickgelu", "ViT-H-14"} <= {*plain}
    assert len(plain) >= 30
    for name in plain:
        for tag in open_clip.list_pretrained_tags_by_model(name):
            stored = open_clip.get_pretrained_cfg(name, tag)
            assert stored["hf_hub"].endswith("/")  # a repository, without a file name
            assert stored["resize_mode"] in RESIZE_MODES
            assert stored["interpolation"] in INTERPOLATIONS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ViT-B-33",), r"'ViT-B-33' is no model of open_clip; close to it: ViT-B-32"),
        (("",), r"backbone.name='' is no model of open_clip; close to it: none"),
        (("RN50",), "has a ResNet image tower, .* use a model with"),
        (("ViT-B-16-SigLIP",), "has a timm image tower and a Hugging Face tokenizer"),
        (("coca_ViT-B-32",), "has a captioning decoder and a class token"),
        (("roberta-ViT-B-32",), "has a Hugging Face text tower and"),
        (("ViT-B-32", "laion2b"), "neither a file nor a tag of ViT-B-32; its tags: openai"),
        (("local-dir:/nowhere",), "the folder needs an open_clip_config.json"),
    ],
)
def test_bad_names(arguments: tuple[str, ...], message: str):
    with pytest.raises(ValueError, match=message):
        OpenClip.from_pretrained(*arguments)


def test_weights_that_do_not_fit(small_folder: str, tmp_path: Path):
    other = tmp_path / "other.pt"
    torch.save(untouched(config(embed_dim=8)).state_dict(), other)
    text = tmp_path / "text.bin"
    text.write_text("root:x:0:0:root")
    empty = tmp_path / "empty.safetensors"
    empty.touch()
    for file in (other, text, empty):
        with pytest.raises(
            ValueError, match=rf"{file.name}' does not hold the weights of local"
        ) as e:
            OpenClip.from_pretrained(small_folder, pretrained=str(file))
        assert "\n" not in str(e.value)


def test_an_unreachable_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr("mmcompress.backbones.open_clip.hub_reachable", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"cannot be reached .* give the path of a downloaded"):
        OpenClip.from_pretrained("ViT-B-32", pretrained="openai")


def test_a_foreign_spec_is_checked_before_anything_is_built(tmp_path: Path):
    foreign = {"name": "x", "config": config(text={"hf_model_name": "someone/model"})}
    with pytest.raises(ValueError, match="a Hugging Face text tower"):
        OpenClip.from_spec(foreign, tmp_path)
