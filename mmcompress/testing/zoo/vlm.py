"""Small image-text models that write answers, with processors that need no file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    Idefics3Config,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
)

from mmcompress.backbones.hf.vlm import HFVlm
from mmcompress.testing.zoo.family import Family, randomized, seeded

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

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<eos>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Turns, each ended by `<eos>`; IMAGE is the token that stands for an image."""


def build_tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """Bytes, and after `<bos>`, `<eos>` and `<pad>` the special tokens from id 3 on.

    Args:
        named: what the tokenizer of an architecture calls some of them.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [FIRST, END, PAD, *special, *alphabet]
    tokenizer = Tokenizer(models.BPE({word: place for place, word in enumerate(words)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(word, normalized=False) for word in (FIRST, END, PAD, *special)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=FIRST,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=named,
    )


def _template(token: str) -> str:
    return TEMPLATE.replace("IMAGE", token)


@dataclass(frozen=True)
class Architecture:
    """One kind of image-text model.

    Attributes:
        config: gives it.
        processor: gives it.
    """

    config: Callable[[], PretrainedConfig]
    processor: Callable[[], Any]


def _idefics3_processor() -> Idefics3Processor:
    special = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
    images = Idefics3ImageProcessor(
        size={"longest_edge": 32}, max_image_size={"longest_edge": 32}, do_image_splitting=False
    )
    return Idefics3Processor(
        images, build_tokenizer(*special), image_seq_len=4, chat_template=_template("<image>")
    )


def _idefics3(kind: Any) -> PretrainedConfig:
    """As SmolVLM has it: 4 × 4 patches, of which four make one token."""
    return kind(
        vision_config=TOWER,
        text_config=GROUPED | {"model_type": "llama"},
        image_token_id=IMAGE,
        scale_factor=2,
        **SPECIAL,
        tie_word_embeddings=False,
    )


ARCHITECTURES: dict[str, Architecture] = {
    "smolvlm": Architecture(lambda: _idefics3(SmolVLMConfig), _idefics3_processor),
    "idefics3": Architecture(lambda: _idefics3(Idefics3Config), _idefics3_processor),
}
"""By `model_type`."""


def untouched_vlm(kind: str) -> Any:
    """transformers' own model, with weights drawn anew."""
    with seeded():
        model = AutoModelForImageTextToText.from_config(ARCHITECTURES[kind].config())
        return randomized(model, std=0.1).eval()


def build_vlm(kind: str) -> HFVlm:
    return HFVlm(untouched_vlm(kind), ARCHITECTURES[kind].processor()).eval()


def write_vlm(kind: str, folder: Path) -> Path:
    """A folder as transformers stores such a model."""
    untouched_vlm(kind).save_pretrained(folder)
    ARCHITECTURES[kind].processor().save_pretrained(folder)
    return folder


def _of_kind(kind: str) -> Callable[[Path], HFVlm]:
    return lambda folder: build_vlm(kind)


FAMILIES = [Family(f"hf_vlm/{kind}", _of_kind(kind)) for kind in ARCHITECTURES]
