"""The open_clip adapter against the untouched models of open_clip."""

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.backbones.open_clip.build import build_tokenizer
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.modules.lowrank import LowRankConv, LowRankLinear

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
            assert found[f"{prefix}{block}.attn.{layer}_proj.weight"] == expected
        assert found[f"{prefix}{block}.mlp.c_fc.weight"] == (modality, "mlp.up", "linear")
        assert found[f"{prefix}{block}.mlp.c_proj.weight"] == (modality, "mlp.down", "linear")
        assert found[f"{prefix}positional_embedding"] == (modality, "position", "matrix")
    assert found["visual.conv1.weight"] == ("image", "patch", "conv")
    assert found["visual.proj"] == ("image", "proj", "matrix")
    assert found["token_embedding.weight"] == ("text", "embed", "embedding")
    assert found["text_projection"] == ("text", "proj", "matrix")
    custom = {t.name: t.modality for t in adapt(CONFIGS["projection_with_bias"]).targets()}
    assert custom["text.text_projection.weight"] == "text"
    assert custom["text.transformer.resblocks.0.attn.q_proj.weight"] == "text"


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
    mlp = plain.model.transformer.resblocks[0].mlp
    mlp.c_fc = LowRankLinear(mlp.c_fc, rank=2)
    plain.model.visual.conv1 = LowRankConv(plain.model.visual.conv1, rank=2)
    assert plain.encode_text(plain.tokenize(["a cat"])).isfinite().all()
    assert plain.encode_image(torch.randn(1, 3, 32, 32)).isfinite().all()
    roles = {t.name: (t.modality, t.role) for t in plain.targets()}
    for factor in "u", "v":
        stem = "transformer.resblocks.0.mlp.c_fc"
        assert roles[f"{stem}.{factor}.weight"] == ("text", "mlp.up")
        assert roles[f"visual.conv1.{factor}.weight"] == ("image", "patch")


@pytest.mark.parametrize("name", ["plain", "custom_block"])
def test_runs_in_half_precision(name: str):
    """The mask is float32: it must follow the activations, under autocast as after a cast."""
    backbone = adapt(CONFIGS[name])
    pixels, ids = torch.randn(2, 3, 32, 32), backbone.tokenize(TEXTS[:2])
    with torch.no_grad():
        expected = [backbone.encode("image", pixels), backbone.encode("text", ids)]
        with torch.autocast("cpu", torch.bfloat16):
            mixed = [backbone.encode("image", pixels), backbone.encode("text", ids)]
        backbone.to(torch.bfloat16)
        half = [backbone.encode("image", pixels.bfloat16()), backbone.encode("text", ids)]
    for found in (mixed, half):
        for features, reference in zip(found, expected, strict=True):
            # bfloat16 keeps 8 bits: a relative 0.4 % per layer, on unit vectors.
            assert (features.float() * reference).sum(dim=-1).min() > 0.99


def test_the_skeleton_follows_from_the_spec(cfg: dict[str, Any], tmp_path: Path):
    backbone = adapt(cfg)
    assert backbone.save_assets(tmp_path) == []
    spec = json.loads(json.dumps(backbone.spec))
    with torch.device("meta"):
        skeleton = OpenClip.from_spec(spec, tmp_path)
    shapes = {name: tensor.shape for name, tensor in backbone.model.state_dict().items()}
    assert {name: t.shape for name, t in skeleton.model.state_dict().items()} == shapes
    assert all(p.is_meta for p in skeleton.model.parameters())
    assert skeleton.spec == backbone.spec == spec
    backbone.spec["config"]["vision_cfg"]["layers"] = 99  # a copy: the model's own stays
    assert backbone.spec == spec
    rebuilt = OpenClip.from_spec(spec, tmp_path).eval()
    rebuilt.model.load_state_dict(backbone.model.state_dict())
    ids = backbone.tokenize(TEXTS)
    assert torch.equal(rebuilt.tokenize(TEXTS), ids)
    with torch.no_grad():
        assert torch.equal(rebuilt.encode_text(ids), backbone.encode_text(ids))


def test_compressed_stored_and_loaded(plain: OpenClip, tmp_path: Path):
    """Structure and values, on layers, the embedding, the convolution and bare matrices."""
    plain.eval()
    parameters = sum(p.numel() for p in plain.parameters())
    recipe = Recipe({"lowrank": LowRank(rank_ratio=0.3, rank_multiple=1), "int8": Integer(bits=8)})
    batch = {"image": torch.randn(8, 3, 32, 32), "text": plain.tokenize(TEXTS)}
    compressed = recipe.apply(plain, [batch])
    assert sum(p.numel() for p in plain.parameters()) < 0.5 * parameters
    encodings = compressed.finalize()
    assert {"visual.proj", "text_projection"} <= {*encodings}
    compressed.save(tmp_path / "artifact", run={"config_hash": "0", "recipe": "test"})
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


@pytest.mark.parametrize("custom", [{}, {"custom_text": True}])
def test_no_token_sees_a_later_one(custom: dict[str, bool]):
    """Padding lies after the token that is read; without the mask it does change the features."""
    for two_way in (False, True):
        backbone = adapt(config(text={"no_causal_mask": two_way}, **custom))
        ids = backbone.tokenize(["a cat"])
        padding = torch.arange(16) > ids.argmax()
        with torch.no_grad():
            found = backbone.encode_text(ids.masked_fill(padding, 7))
            expected = backbone.encode_text(ids)
        assert torch.allclose(found, expected, **TOLERANCE) is not two_way


def test_its_tokenizer_exists_once() -> None:
    config = {"text_cfg": {"context_length": 12, "tokenizer_kwargs": {"clean": "canonicalize"}}}
    first, second = (build_tokenizer("any", config, None) for _ in range(2))
    assert first is second
    other = build_tokenizer("any", {"text_cfg": {"context_length": 9}}, None)
    assert other(["cat"]).shape == (1, 9)
    assert first(["cat"]).shape == (1, 12)
