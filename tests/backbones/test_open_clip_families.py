"""Every architecture family of open_clip, reduced, against the untouched model."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from timm.models import build_model_with_cfg, register_model
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import (
    AutoConfig,
    BertConfig,
    M2M100Config,
    MT5Config,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)

from mmcompress.artifact.artifact import Artifact
from mmcompress.backbones.open_clip import OpenClip
from mmcompress.backbones.open_clip_build import build_model
from mmcompress.compression.lowrank.lowrank import LowRank
from mmcompress.compression.quantization.gptq import GPTQ
from mmcompress.compression.recipe import Recipe
from tests.conftest import build_tokenizer, store

# float32; the explicit layers add in another order than the fused ones.
TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
SIZE = 64
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}


def reduced(kind: type[nn.Module], name: str, **sizes: Any) -> None:
    """Make a small model known to timm, by whose names open_clip builds towers."""

    def build(pretrained: bool = False, **options: Any) -> nn.Module:
        given = {
            key: options.pop(key, None) for key in ("pretrained_cfg", "pretrained_cfg_overlay")
        }
        assert not any(given.values())
        cfg = {"pool_size": (2, 2), "num_classes": 1000}
        return build_model_with_cfg(kind, name, pretrained, pretrained_cfg=cfg, **sizes | options)

    build.__name__, build.__module__ = name, __name__
    register_model(build)


LAYERS = {"img_size": SIZE, "patch_size": 16, "depth": 2, "num_heads": 4}
SWIGLU = {"mlp_ratio": 4 * 2 / 3, "swiglu_mlp": True, "scale_mlp": True, "use_rot_pos_emb": True}
ROPE = {"attn_type": "rope", "use_pre_transformer_norm": True, "use_rot_pos_emb": True}
reduced(VisionTransformer, "reduced_vit", embed_dim=64, **LAYERS)
reduced(Eva, "reduced_eva01", embed_dim=128, **LAYERS)
reduced(Eva, "reduced_eva02", embed_dim=128, **LAYERS | SWIGLU)
reduced(Eva, "reduced_pe", embed_dim=128, **LAYERS | ROPE)
reduced(ConvNeXt, "reduced_convnext", depths=(1, 1, 2, 1), dims=(32, 64, 96, 128))
reduced(
    FastVit,
    "reduced_mobileclip",
    layers=(1, 1, 1, 1),
    embed_dims=(32, 64, 128, 256),
    mlp_ratios=(3, 3, 3, 3),
    token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
    se_downsamples=(False, False, True, True),
)


def config(vision: dict[str, Any], text: dict[str, Any] | None = None, **rest: Any) -> dict:
    return {"embed_dim": 64, "vision_cfg": {"image_size": SIZE} | vision, "text_cfg": TEXT} | (
        {"text_cfg": TEXT | (text or {})} | rest
    )


def timm_tower(name: str, pool: str, proj: str | None) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj}


VIT = {"patch_size": 16, "layers": 2, "width": 64, "head_width": 16}
WIDE = TEXT | {"width": 64, "heads": 4}
SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
COCA_IMAGE = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 8}
COCA_TEXT = WIDE | {"embed_cls": True, "output_tokens": True}

FAMILIES = {
    "vit": config(VIT),
    "timm_vit": config(timm_tower("reduced_vit", "token", "linear")),
    "resnet": config({"layers": [1, 1, 1, 1], "width": 16, "head_width": 64}),
    "convnext": config(timm_tower("reduced_convnext", "", "linear")),
    "convnext_mlp": config(timm_tower("reduced_convnext", "", "mlp")),
    "siglip": config(
        timm_tower("reduced_vit", "map", "none"),
        SIGLIP_TEXT,
        init_logit_bias=-10.0,
        custom_text=True,
    ),
    "mobileclip": config(timm_tower("reduced_mobileclip", "avg", None), {"no_causal_mask": True}),
    "eva01": config(timm_tower("reduced_eva01", "token", None)),
    "eva02": config(timm_tower("reduced_eva02", "token", None)),
    "perception_encoder": config(timm_tower("reduced_pe", "map", None)),
    "coca": config(
        VIT | COCA_IMAGE | {"output_tokens": True}, COCA_TEXT, multimodal_cfg=WIDE, custom_text=True
    ),
    "coca_cascade": config(
        VIT | COCA_IMAGE | {"attentional_pool": "cascade", "output_tokens": True},
        COCA_TEXT,
        multimodal_cfg=WIDE,
        custom_text=True,
    ),
}

TEXTS = ["a red cat", "two dogs in front of a house"]


def untouched(cfg: dict[str, Any]) -> Any:
    """Biases and scales are random: zero and one would hide a mix-up."""
    torch.manual_seed(0)
    model = build_model("reduced", cfg, None).eval()
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, mean=0.5, std=0.2)
    return model


@pytest.fixture(params=FAMILIES)
def cfg(request: pytest.FixtureRequest) -> dict[str, Any]:
    return copy.deepcopy(FAMILIES[request.param])


def encode_both(model: Any, pixels: torch.Tensor, ids: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return [model.encode_image(pixels), model.encode_text(ids)]


def coverage(backbone: OpenClip) -> dict[str, float]:
    """Tower → share of its parameters that are targets; without logit scale and bias."""
    targets = {target.name for target in backbone.targets()}
    sizes: dict[str, list[int]] = {}
    for name, parameter in backbone.model.named_parameters():
        total = sizes.setdefault(backbone.modality_of(name), [0, 0])
        total[0] += parameter.numel() * (name in targets)
        total[1] += parameter.numel()
    return {modality: part / total for modality, (part, total) in sizes.items() if total > 2}


def check_family(reference: Any, backbone: OpenClip) -> None:
    """Same outputs; at least 95 % of each tower is a target, each target runs, the rest is told."""
    pixels, ids = torch.randn(3, 3, SIZE, SIZE), backbone.tokenize(TEXTS)
    expected, found = encode_both(reference, pixels, ids), encode_both(backbone, pixels, ids)
    torch.testing.assert_close(found, expected, **TOLERANCE)
    assert all(features.std() > 1e-3 for features in found)

    assert min(coverage(backbone).values()) >= 0.95, coverage(backbone)
    kinds = ("normalisation", "bias", "scalar of ", "vector of ")
    assert all(reason.startswith(kinds) for reason in backbone.remainder().values())

    ran = set()
    layers = [t for t in backbone.targets() if t.granularity != "matrix"]
    for target in layers:
        module = backbone.model.get_submodule(target.module)
        module.register_forward_hook(lambda *_, name=target.name: ran.add(name))
    encode_both(backbone, pixels, ids)
    if backbone.joint:
        backbone.run_jointly({"image": pixels[:2], "text": ids})
    assert ran == {t.name for t in layers}


def test_equals_the_untouched_model_and_is_covered(cfg: dict[str, Any]) -> None:
    reference = untouched(cfg)
    check_family(reference, OpenClip(copy.deepcopy(reference), name="reduced", config=cfg).eval())


def test_stored_and_loaded(cfg: dict[str, Any], tmp_path: Path) -> None:
    """Low rank, then codes that make up for each other: on every layer of every family."""
    backbone = OpenClip(untouched(cfg), name="reduced", config=cfg).eval()
    check_round_trip(backbone, tmp_path)


def check_round_trip(backbone: OpenClip, folder: Path) -> None:
    parameters = sum(p.numel() for p in backbone.parameters())
    batch = {"image": torch.randn(2, 3, SIZE, SIZE), "text": backbone.tokenize(TEXTS)}
    steps = {
        "lowrank": LowRank(rank_ratio=0.5, rank_multiple=1, role="mlp.*"),
        "gptq": GPTQ(bits=8),
    }
    recipe = Recipe(steps)
    recipe.apply(backbone, [batch])
    assert recipe.coverage["gptq"] >= 0.95
    store(folder / "artifact", backbone, recipe, dense_parameters=parameters)
    loaded = Artifact.load(folder / "artifact").backbone
    assert torch.equal(loaded.tokenize(TEXTS), batch["text"])
    for modality, inputs in batch.items():
        with torch.no_grad():
            assert torch.equal(loaded.encode(modality, inputs), backbone.encode(modality, inputs))
    if backbone.joint:
        with torch.no_grad():
            logits = [b.model(*batch.values())["logits"] for b in (loaded, backbone)]
        assert torch.equal(*logits)


BERT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
TOWERS: dict[str, Callable[[int], Any]] = {
    "roberta": lambda size: RobertaConfig(
        **BERT, vocab_size=size, intermediate_size=128, max_position_embeddings=20, pad_token_id=2
    ),
    "xlm-roberta": lambda size: XLMRobertaConfig(
        **BERT, vocab_size=size, intermediate_size=128, max_position_embeddings=20, pad_token_id=2
    ),
    "bert": lambda size: BertConfig(
        **BERT, vocab_size=size, intermediate_size=128, max_position_embeddings=20, pad_token_id=2
    ),
    "mt5": lambda size: MT5Config(
        d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, vocab_size=size, pad_token_id=2
    ),
    "m2m_100": lambda size: M2M100Config(
        d_model=64,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=4,
        encoder_ffn_dim=128,
        vocab_size=size,
        pad_token_id=2,
    ),
}


@pytest.fixture(params=TOWERS)
def local(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a model whose text tower is one of Hugging Face's, and its tokenizer."""
    tokenizer = build_tokenizer()
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path)
    TOWERS[request.param](tokenizer.get_vocab_size()).save_pretrained(tmp_path)
    names = {"hf_model_name": str(tmp_path), "hf_tokenizer_name": str(tmp_path)}
    text = names | {"context_length": 12, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}
    cfg = {"embed_dim": 64, "vision_cfg": VIT | {"image_size": SIZE}, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    return tmp_path


def test_a_text_tower_of_transformers(local: Path, tmp_path: Path) -> None:
    name = f"local-dir:{local}"
    torch.manual_seed(0)
    reference = open_clip.create_model(name, load_weights=False, pretrained_text=False).eval()
    weights = tmp_path / "weights.pt"
    torch.save(reference.state_dict(), weights)
    backbone = OpenClip.from_pretrained(name, pretrained=str(weights)).eval()
    assert torch.equal(backbone.tokenize(TEXTS), open_clip.get_tokenizer(name)(TEXTS))
    check_family(reference, backbone)
    assert backbone.valid_tokens("text", backbone.tokenize(TEXTS)).sum(dim=1).tolist() == [4, 3]
    check_round_trip(backbone, tmp_path)


def test_a_text_tower_that_is_not_there(tmp_path: Path) -> None:
    text = {"hf_model_name": str(tmp_path / "missing"), "context_length": 12}
    cfg = {"embed_dim": 64, "vision_cfg": VIT, "text_cfg": text}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))
    with pytest.raises(ValueError, match=r"needs the config of its text tower, .*cannot be read"):
        OpenClip.from_pretrained(f"local-dir:{tmp_path}")


def test_every_tower_of_the_zoo_is_known_to_timm() -> None:
    """Names, heads and sizes are open_clip's; here only that its zoo and timm fit together."""
    names = {
        open_clip.get_model_config(name)["vision_cfg"].get("timm_model_name")
        for name in open_clip.list_models()
    }
    assert len(names - {None}) >= 20
    assert all(timm.is_model(name) for name in names - {None})


def test_every_text_tower_of_the_zoo_is_tested() -> None:
    towers = {
        open_clip.get_model_config(name)["text_cfg"].get("hf_model_name")
        for name in open_clip.list_models()
    }
    known = {"roberta-base", "xlm-roberta-base", "xlm-roberta-large"}
    known |= {"google/mt5-base", "google/mt5-xl"}
    known |= {"facebook/nllb-200-distilled-600M", "facebook/nllb-200-distilled-1.3B"}
    assert towers - {None} == known
    assert AutoConfig.for_model("m2m_100").model_type in TOWERS  # that of nllb-200
