"""Models of transformers, reduced: two towers, a sentence encoder, a generative one."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    AltCLIPConfig,
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ClapConfig,
    ClapModel,
    CLIPConfig,
    CLIPModel,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PretrainedConfig,
    PreTrainedModel,
    RobertaConfig,
    Siglip2Config,
    SiglipConfig,
    VisionTextDualEncoderConfig,
    ViTConfig,
)

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.bert import TextEncoder
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.generative import HFGenerative
from mmcompress.backbones.hf.kinds import KINDS
from mmcompress.backbones.hf.sentence import HFText
from mmcompress.backbones.hf.two_towers import HF
from mmcompress.testing.zoo.family import Family, randomized, seeded
from mmcompress.testing.zoo.words import SPECIAL, build_tokenizer

LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TEXT: dict[str, Any] = LAYERS | SPECIAL | {"vocab_size": 64}
IMAGE = LAYERS | {"image_size": 32, "patch_size": 8}
SOUND_TOWER = {
    "hidden_size": 64,
    "patch_embeds_hidden_size": 32,
    "depths": [2, 1],
    "num_attention_heads": [2, 4],
    "spec_size": 64,
    "num_mel_bins": 16,
    "window_size": 4,
    "patch_size": 4,
    "patch_stride": [4, 4],
}
SOUND_FEATURES = {
    "feature_size": 16,
    "sampling_rate": 8000,
    "max_length_s": 1,
    "hop_length": 80,
    "fft_window_size": 512,
    "frequency_max": 4000,
}


def dual(text: PretrainedConfig) -> VisionTextDualEncoderConfig:
    return VisionTextDualEncoderConfig.from_vision_text_configs(
        ViTConfig(**IMAGE), text, projection_dim=32
    )


CONFIGS: dict[str, Callable[[], Any]] = {
    "siglip": lambda: SiglipConfig(
        text_config=TEXT | {"max_position_embeddings": 16}, vision_config=IMAGE
    ),
    "siglip2": lambda: Siglip2Config(
        text_config=TEXT | {"max_position_embeddings": 16},
        vision_config=LAYERS | {"num_patches": 16, "patch_size": 8},
    ),
    "chinese_clip": lambda: ChineseCLIPConfig(
        text_config=TEXT | {"max_position_embeddings": 16}, vision_config=IMAGE, projection_dim=32
    ),
    "altclip": lambda: AltCLIPConfig(
        text_config=TEXT | {"max_position_embeddings": 19, "project_dim": 48},
        vision_config=IMAGE,
        projection_dim=32,
    ),
    "vit_bert": lambda: dual(BertConfig(**TEXT, max_position_embeddings=16)),
    "vit_roberta": lambda: dual(RobertaConfig(**TEXT, max_position_embeddings=19)),
    "clap": lambda: ClapConfig(
        text_config=TEXT | {"max_position_embeddings": 19},
        audio_config=SOUND_TOWER,
        projection_dim=32,
    ),
}
"""Configs of the models that `mmcompress.backbones.hf.two_towers` reads."""


def untouched(kind: str) -> PreTrainedModel:
    """transformers' own model of a config; weights are large, for little would hide a mix-up."""
    config = CONFIGS[kind]()
    with seeded():
        return randomized(KINDS[config.model_type].model(config), std=0.2).eval()


def adapt(model: PreTrainedModel) -> HF:
    features = SOUND_FEATURES if model.config.model_type == "clap" else None
    return HF(copy.deepcopy(model), build_tokenizer(), features=features).eval()


def llava_config(**text: Any) -> LlavaConfig:
    words = {"model_type": "llama", "num_key_value_heads": 2}
    return LlavaConfig(
        vision_config=IMAGE | {"model_type": "clip_vision_model", "num_hidden_layers": 3},
        text_config=TEXT | words | text,
        image_token_index=63,
    )


def untouched_llava() -> LlavaForConditionalGeneration:
    with seeded():
        model = LlavaForConditionalGeneration(llava_config()).eval()
        return randomized(model, std=0.1)


def build_clip(seed: int = 0) -> HFClip:
    """32 pixels, 32 wide, as the library draws it."""
    narrow = LAYERS | {"num_attention_heads": 2}
    config = CLIPConfig(
        text_config=TEXT | narrow | {"max_position_embeddings": 8},
        vision_config=narrow | {"image_size": 32, "patch_size": 16},
        projection_dim=32,
    )
    with seeded(seed):
        return HFClip(CLIPModel(config), build_tokenizer()).eval()


def build_clap(seed: int = 0) -> HF:
    """One second of sound at 8 kHz, 16 mel bands; text as in `build_clip`."""
    narrow = LAYERS | {"num_attention_heads": 2}
    config = ClapConfig(
        text_config=TEXT | narrow | {"max_position_embeddings": 19},
        audio_config=SOUND_TOWER,
        projection_dim=32,
    )
    with seeded(seed):
        return HF(ClapModel(config), build_tokenizer(), features=SOUND_FEATURES).eval()


def _clip(folder: Path) -> Backbone:
    backbone = build_clip()
    with seeded():
        randomized(backbone.model, std=0.2)
    return backbone


def _sentences(folder: Path) -> Backbone:
    config = BertConfig(**TEXT, max_position_embeddings=16)
    with seeded():
        return HFText(randomized(TextEncoder(BertModel(config)), std=0.2), build_tokenizer()).eval()


def _llava(folder: Path) -> Backbone:
    return HFGenerative(untouched_llava(), build_tokenizer()).eval()


def _of_config(kind: str) -> Callable[[Path], Backbone]:
    return lambda folder: adapt(untouched(kind))


FAMILIES = [
    Family("hf/clip", _clip),
    *(Family(f"hf/{kind}", _of_config(kind)) for kind in CONFIGS),
    Family("hf_text/bert", _sentences),
    Family("llava", _llava),
]
