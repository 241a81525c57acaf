"""A tokenizer that needs no file: 64 words, three of them special."""

from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

COLORS = ("red", "green", "blue", "black")
THINGS = ("cat", "dog", "house", "tree", "boat", "moon", "key", "shoe", "fish", "star")
FIRST, END, PAD = "<bos>", "<eos>", "<pad>"
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
"""Their ids, as configs of transformers name them."""


def build_tokenizer() -> Tokenizer:
    words = [FIRST, END, PAD, *COLORS, *THINGS, *(f"word{i}" for i in range(47))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, PAD))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {END}", special_tokens=[(FIRST, 0), (END, 1)]
    )
    return tokenizer


def save_tokenizer(folder: Path) -> None:
    """As transformers' `AutoTokenizer` reads it."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(), bos_token=FIRST, eos_token=END, pad_token=PAD
    )
    tokenizer.save_pretrained(folder)
