"""The architecture families of open_clip's zoo, reduced."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from timm.models import build_model_with_cfg, register_model
from timm.models.convnext import ConvNeXt
from timm.models.eva import Eva
from timm.models.fastvit import FastVit
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from transformers import (
    BertConfig,
    M2M100Config,
    MT5Config,
    PretrainedConfig,
    RobertaConfig,
    XLMRobertaConfig,
)

from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.backbones.open_clip.build import build_model
from mmcompress.testing.zoo.family import Family, randomized, seeded
from mmcompress.testing.zoo.words import SPECIAL, build_tokenizer, save_tokenizer

SIZE = 64
TEXT: dict[str, Any] = {
    "context_length": 16,
    "vocab_size": 49408,
    "width": 32,
    "heads": 2,
    "layers": 2,
    "mlp_ratio": 2.0,  # the fewer weights in a matrix, the sooner it is stored
}


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


LAYERS = {"img_size": SIZE, "patch_size": 16, "embed_dim": 32, "depth": 2, "num_heads": 2}
MLP = {"mlp_ratio": 2.0}
SWIGLU = {"mlp_ratio": 4 * 2 / 3, "swiglu_mlp": True, "scale_mlp": True, "use_rot_pos_emb": True}
ROPE = {"attn_type": "rope", "use_pre_transformer_norm": True, "use_rot_pos_emb": True}
reduced(VisionTransformer, "reduced_vit", **LAYERS | MLP)
reduced(Eva, "reduced_eva01", **LAYERS | MLP)
reduced(Eva, "reduced_eva02", **LAYERS | SWIGLU)
reduced(Eva, "reduced_pe", **LAYERS | MLP | ROPE)
reduced(ConvNeXt, "reduced_convnext", depths=(1, 1, 2, 1), dims=(32, 32, 64, 64))
reduced(
    FastVit,
    "reduced_mobileclip",
    layers=(1, 1, 1, 1),
    embed_dims=(32, 32, 64, 64),
    mlp_ratios=(3, 3, 3, 3),
    token_mixers=("repmixer", "repmixer", "repmixer", "attention"),
    se_downsamples=(False, False, True, True),
)


def config(vision: dict[str, Any], text: dict[str, Any] | None = None, **rest: Any) -> dict:
    vision, text = {"image_size": SIZE} | vision, TEXT | (text or {})
    return {"embed_dim": 32, "vision_cfg": vision, "text_cfg": text} | rest


def timm_tower(name: str, pool: str, proj: str | None) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj}


VIT = {"patch_size": 16, "layers": 2, "width": 32, "head_width": 16, "mlp_ratio": 2.0}
SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
COCA_IMAGE = {"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 8}
COCA_TEXT = {"embed_cls": True, "output_tokens": True}

CONFIGS = {
    "vit": config(VIT),
    "timm_vit": config(timm_tower("reduced_vit", "token", "linear")),
    "resnet": config({"layers": [1, 1, 1, 1], "width": 4, "head_width": 32}),
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
        VIT | COCA_IMAGE | {"output_tokens": True}, COCA_TEXT, multimodal_cfg=TEXT, custom_text=True
    ),
    "coca_cascade": config(
        VIT | COCA_IMAGE | {"attentional_pool": "cascade", "output_tokens": True},
        COCA_TEXT,
        multimodal_cfg=TEXT,
        custom_text=True,
    ),
}
"""Model configs of open_clip, with its own text tower and vocabulary."""

BERT: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
POSITIONS = {"intermediate_size": 64, "max_position_embeddings": 20, "pad_token_id": 2}
TOWERS: dict[str, Callable[[int], PretrainedConfig]] = {
    "roberta": lambda size: RobertaConfig(**BERT | POSITIONS, vocab_size=size),
    "xlm-roberta": lambda size: XLMRobertaConfig(**BERT | POSITIONS, vocab_size=size),
    "bert": lambda size: BertConfig(**BERT | POSITIONS, vocab_size=size),
    "mt5": lambda size: MT5Config(
        d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, vocab_size=size, pad_token_id=2
    ),
    "m2m_100": lambda size: M2M100Config(
        d_model=32,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        encoder_layerdrop=0,  # else a step may leave a layer without gradient
        vocab_size=size,
        pad_token_id=2,
    ),
}
"""Text towers of transformers, by their `model_type`: how many tokens there are → config."""


def untouched(cfg: dict[str, Any]) -> Any:
    """open_clip's own model of a config, with random biases and scales."""
    with seeded():
        return randomized(build_model("reduced", cfg, None)).eval()


def write_tower(kind: str, folder: Path) -> None:
    """A folder for `local-dir:…`: a ViT, a text tower of `TOWERS` and its tokenizer; no weights."""
    save_tokenizer(folder)
    TOWERS[kind](build_tokenizer().get_vocab_size()).save_pretrained(folder)
    names = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder)}
    text = names | {"context_length": 12, "hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"}
    cfg = {"embed_dim": 32, "vision_cfg": VIT | {"image_size": SIZE}, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg}))


def few_words(cfg: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same config with the vocabulary of `words` in place of open_clip's 49,408."""
    save_tokenizer(folder)
    size, pad = build_tokenizer().get_vocab_size(), SPECIAL["pad_token_id"]
    words = {"hf_tokenizer_name": str(folder), "vocab_size": size, "pad_id": pad}
    return copy.deepcopy(cfg | {"text_cfg": cfg["text_cfg"] | words})


def _of_config(kind: str) -> Callable[[Path], OpenClip]:
    def build(folder: Path) -> OpenClip:
        (folder / "open_clip_config.json").write_text(
            json.dumps({"model_cfg": few_words(CONFIGS[kind], folder)})
        )
        return _randomized(OpenClip.from_pretrained(f"local-dir:{folder}"))

    return build


def _of_tower(kind: str) -> Callable[[Path], OpenClip]:
    def build(folder: Path) -> OpenClip:
        write_tower(kind, folder)
        return _randomized(OpenClip.from_pretrained(f"local-dir:{folder}"))

    return build


def _randomized(backbone: OpenClip) -> OpenClip:
    with seeded():
        randomized(backbone.model)
    return backbone.eval()


FAMILIES = [
    *(Family(f"open_clip/{kind}", _of_config(kind)) for kind in CONFIGS),
    *(Family(f"open_clip/vit_{kind}", _of_tower(kind)) for kind in TOWERS),
]
