"""A small image-text model to be trained on OpenMoji: its tower starts from the packaged CLIP.

LLaVA's architecture of transformers (CLIP tower, two-layer projector, Llama with grouped-query
attention and a gated MLP), 4.9 M parameters, the packaged model's own tokenizer, no download.
"""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, processors
from transformers import (
    CLIPImageProcessor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.vlm import HFVlm

IMAGE = "<image>"
CONTEXT = 64

TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""The image, the question, the answer, and the token that ends it."""


def emoji_vlm(*, layers: int = 4, width: int = 192, seed: int = 0) -> HFVlm:
    """The model before it is trained: tower and preprocessing are the packaged CLIP's, all else is
    random.

    Args:
        layers: blocks of the language model.
        width: of the language model; a multiple of 64.
        seed: of the random weights.
    """
    clip = HFClip.mini()
    vision: Any = clip.model.config.vision_config
    assert isinstance(clip.tokenizer, Tokenizer)
    tokenizer = _tokenizer(clip.tokenizer)
    ids: dict[str, Any] = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=8 * width // 3,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        num_key_value_heads=width // 64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        **ids,
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=tokenizer.encode(IMAGE)[0],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + 1,
        tie_word_embeddings=True,
        **ids,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(clip.model.vision_model.state_dict())
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(**clip._pixels.spec["image_processor"]),
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
        image_token=IMAGE,
    )
    return HFVlm(model.eval(), processor)


def _tokenizer(packaged: Tokenizer) -> PreTrainedTokenizerFast:
    """The packaged CLIP's words, with a token for an image and nothing put around a text."""
    words = Tokenizer.from_str(packaged.to_str())
    words.no_truncation()
    words.no_padding()
    words.post_processor = processors.Sequence([])
    words.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=[IMAGE],
    )
