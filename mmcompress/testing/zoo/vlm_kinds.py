"""Configs and processors of image-text models: 32 wide, pictures of 32 pixels in patches of 8.

The widths divide groups and ranks of the recipes; a picture is 16 patches, of which four make one
token where the architecture merges them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

hf: Any = transformers

FIRST, END, PAD = "<bos>", "<eos>", "<pad>"
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
IMAGE = 3
"""Id of the token that stands for a piece of an image, first of an architecture's own."""

VOCABULARY = 320
"""256 bytes and all special tokens."""

LAYERS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
TOWER = LAYERS | {"image_size": 32, "patch_size": 8}
TEXT = LAYERS | SPECIAL | {"vocab_size": VOCABULARY, "max_position_embeddings": 256}
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8}
M_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
SIGLIP = TOWER | {"model_type": "siglip_vision_model", "vision_use_head": False}
SIZE = {"height": 32, "width": 32}

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Turns, each ended by `<eos>`; IMAGE is what stands for an image."""


def tokenizer(*special: str, **named: str) -> Any:
    """Bytes, and after `<bos>`, `<eos>` and `<pad>` the special tokens from id 3 on.

    Args:
        named: what the processor of an architecture calls some of them.
    """
    words = [FIRST, END, PAD, *special]
    alphabet = [*words, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    plain = Tokenizer(models.BPE({word: place for place, word in enumerate(alphabet)}, []))
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    plain.add_special_tokens([AddedToken(word, normalized=False) for word in words])
    names = {"bos_token": FIRST, "eos_token": END, "pad_token": PAD}
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=plain, **names, extra_special_tokens=named or None
    )


def template(image: str) -> str:
    """The chat template of a model.

    Args:
        image: what stands for one.
    """
    return TEMPLATE.replace("IMAGE", image)


@dataclass(frozen=True)
class Architecture:
    """One kind of image-text model.

    Attributes:
        config: gives it.
        processor: gives it.
    """

    config: Callable[[], Any]
    processor: Callable[[], Any]


def _idefics3_config(kind: Any) -> Any:
    """Of SmolVLM too."""
    return kind(
        vision_config=TOWER,
        text_config=GROUPED | {"model_type": "llama"},
        image_token_id=IMAGE,
        scale_factor=2,
        **SPECIAL,
        tie_word_embeddings=False,
    )


def _idefics3_processor() -> Any:
    special = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    longest = {"longest_edge": 32}
    images = hf.Idefics3ImageProcessor(
        size=longest, max_image_size=longest, do_image_splitting=False
    )
    return hf.Idefics3Processor(
        images, tokenizer(*special), image_seq_len=4, chat_template=template("<image>")
    )


def _llava_config() -> Any:
    return hf.LlavaConfig(
        vision_config=TOWER | {"model_type": "clip_vision_model", "num_hidden_layers": 3},
        text_config=GROUPED | {"model_type": "llama"},
        image_token_index=IMAGE,
    )


def _llava_processor() -> Any:
    images = hf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=SIZE)
    return hf.LlavaProcessor(
        images,
        tokenizer("<image>"),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=template("<image>"),
    )


PINPOINTS = [[32, 32], [32, 64]]
"""Sizes that a picture may be cut into tiles of."""


def _onevision_config() -> Any:
    return hf.LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config=GROUPED | {"model_type": "qwen2"},
        image_token_index=IMAGE,
        video_token_index=IMAGE + 1,
        image_grid_pinpoints=PINPOINTS,
        tie_word_embeddings=False,
    )


def _onevision_processor() -> Any:
    images = hf.LlavaOnevisionImageProcessor(size=SIZE, image_grid_pinpoints=PINPOINTS)
    return hf.LlavaOnevisionProcessor(
        images,
        tokenizer("<image>", "<video>"),
        hf.LlavaOnevisionVideoProcessor(size=SIZE),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=template("<image>"),
    )


QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": IMAGE + 1,
    "vision_start_token_id": IMAGE + 2,
    "vision_end_token_id": IMAGE + 3,
}
QWEN_TOWER = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 4,
    "patch_size": 8,
    "out_hidden_size": 32,
}
QWEN_TEXT = GROUPED | {"rope_parameters": M_ROPE}


def _qwen2_5_config() -> Any:
    return hf.Qwen2_5_VLConfig(
        vision_config=QWEN_TOWER | {"window_size": 32, "fullatt_block_indexes": [1]},
        text_config=QWEN_TEXT,
        **QWEN_IDS,
        tie_word_embeddings=True,
    )


def _qwen3_config() -> Any:
    return hf.Qwen3VLConfig(
        vision_config=QWEN_TOWER | {"num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
        # Behind the first block features of the tower are added, which the last one must read.
        text_config=QWEN_TEXT | {"num_hidden_layers": 4},
        **QWEN_IDS,
        tie_word_embeddings=False,
    )


def _qwen_processor(kind: Any, videos: Any) -> Any:
    images = hf.Qwen2VLImageProcessor(
        patch_size=8, size={"shortest_edge": 32 * 32, "longest_edge": 32 * 32}
    )
    return kind(
        images,
        tokenizer(*QWEN),
        videos(patch_size=8),
        chat_template=template("<|vision_start|><|image_pad|><|vision_end|>"),
    )


def _gemma3_config() -> Any:
    return hf.Gemma3Config(
        vision_config=SIGLIP,
        text_config=GROUPED
        | {
            "sliding_window": 64,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
        image_token_index=IMAGE,
        boi_token_index=IMAGE + 1,
        eoi_token_index=IMAGE + 2,
        mm_tokens_per_image=4,
    )


def _gemma3_processor() -> Any:
    special = {"image_token": "<image>", "boi_token": "<start>", "eoi_token": "<end>"}
    return hf.Gemma3Processor(
        hf.Gemma3ImageProcessor(size=SIZE),
        tokenizer(*special.values(), **special),
        image_seq_length=4,
        chat_template=template("<start>"),
    )


def _paligemma_config() -> Any:
    """1,152 tokens of places are added to the vocabulary."""
    return hf.PaliGemmaConfig(
        vision_config=SIGLIP | {"projection_dim": 32},
        text_config=GROUPED | {"model_type": "gemma2", "vocab_size": 1440, "sliding_window": 64},
        image_token_index=IMAGE,
        projection_dim=32,
    )


def _paligemma_processor() -> Any:
    images = hf.SiglipImageProcessor(size=SIZE)
    images.image_seq_length = 16
    return hf.PaliGemmaProcessor(images, tokenizer("<image>", image_token="<image>"))


def _internvl_config() -> Any:
    return hf.InternVLConfig(
        vision_config=TOWER
        | {"model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8]},
        text_config=GROUPED | {"model_type": "qwen2", "hidden_size": 64, "head_dim": 16},
        image_token_id=IMAGE,
        image_seq_length=4,
        tie_word_embeddings=False,
    )


def _internvl_processor() -> Any:
    special = {
        "context_image_token": "<IMG_CONTEXT>",
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "video_token": "<video>",
    }
    return hf.InternVLProcessor(
        hf.GotOcr2ImageProcessor(size=SIZE, crop_to_patches=False),
        tokenizer(*special.values(), **special),
        hf.InternVLVideoProcessor(size=SIZE),
        image_seq_length=4,
        chat_template=template("<IMG_CONTEXT>"),
    )


def _mistral3_config() -> Any:
    return hf.Mistral3Config(
        vision_config=TOWER | {"model_type": "pixtral", "head_dim": 8},
        text_config=GROUPED | {"model_type": "mistral", "sliding_window": None},
        image_token_index=IMAGE,
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )


def _mistral3_processor() -> Any:
    return hf.PixtralProcessor(
        hf.PixtralImageProcessor(size={"longest_edge": 32}, patch_size={"height": 8, "width": 8}),
        tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        patch_size=8,
        spatial_merge_size=2,
        chat_template=template("[IMG]"),
    )


ARCHITECTURES: dict[str, Architecture] = {
    "smolvlm": Architecture(lambda: _idefics3_config(hf.SmolVLMConfig), _idefics3_processor),
    "idefics3": Architecture(lambda: _idefics3_config(hf.Idefics3Config), _idefics3_processor),
    "llava": Architecture(_llava_config, _llava_processor),
    "llava_onevision": Architecture(_onevision_config, _onevision_processor),
    "qwen2_5_vl": Architecture(
        _qwen2_5_config,
        lambda: _qwen_processor(hf.Qwen2_5_VLProcessor, hf.Qwen2VLVideoProcessor),
    ),
    "qwen3_vl": Architecture(
        _qwen3_config, lambda: _qwen_processor(hf.Qwen3VLProcessor, hf.Qwen3VLVideoProcessor)
    ),
    "gemma3": Architecture(_gemma3_config, _gemma3_processor),
    "paligemma": Architecture(_paligemma_config, _paligemma_processor),
    "internvl": Architecture(_internvl_config, _internvl_processor),
    "mistral3": Architecture(_mistral3_config, _mistral3_processor),
}
"""By `model_type`."""
