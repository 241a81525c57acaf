"""open_clip's own tokenizer as a `tokenizer.json`: the same ids of any text."""

import random
from pathlib import Path

import numpy as np
import open_clip
import pytest

from mmcompress.backbones.open_clip.tokenizers import tokenizer_settings
from mmcompress.inputs.texts import Texts

TEXTS = [
    *("", "   ", "Two DOGS' boat's it's I'll we'RE", "don’t “quote”", "ﬁne ＡＢＣ", "schÃ¶n"),
    *("<start_of_text> a <end_of_text> b", "<END_OF_TEXT>", "<|endoftext|>", "a" * 300),
    *("word " * 200, "a&amp;b &lt;tag&gt; &amp;amp;", "tab\tnew\nline\r\nx", "1234 12,345.67 3rd"),
    *("İstanbul ΣΑΣ ß", "combining a\u0301", "\u200bzero\u200bwidth", "٣٤٥ ५", "a\u00a0b", "½ ² ①"),
    *("日本語のテキスト", "emoji 🐱‍👤 👍🏽 done", "x_y-z_w", "#$%^&*() ...!!"),
]
RANGES = [(32, 127), (32, 127), (0xA1, 0x250), (0x370, 0x460), (0x4E00, 0x4E40), (0x1F600, 0x1F640)]


def noise(count: int) -> list[str]:
    """Texts of letters of many scripts."""
    draw = random.Random(0)
    letters = [chr(code) for first, end in RANGES for code in range(first, end)]
    return ["".join(draw.choices(letters, k=draw.randint(1, 60))) for _ in range(count)]


@pytest.mark.parametrize(
    "options",
    [{}, {"clean": "whitespace"}, {"clean": "canonicalize"}, {"context_length": 16}],
    ids=str,
)
def test_same_ids(options: dict, tmp_path: Path) -> None:
    tokenizer = open_clip.SimpleTokenizer(**options)
    settings = tokenizer_settings(tokenizer, tmp_path, embeddings=49408)
    texts = TEXTS + noise(300)
    found = Texts(settings, tmp_path)(texts)
    assert found.dtype == np.int64
    for row, expected, text in zip(found, tokenizer(texts).numpy(), texts, strict=True):
        assert np.array_equal(row, expected), text


def test_more_special_tokens(tmp_path: Path) -> None:
    tokenizer = open_clip.SimpleTokenizer(additional_special_tokens=["<mask>"])
    settings = tokenizer_settings(tokenizer, tmp_path, embeddings=49409)
    texts = ["a <mask> of a cat", "<MASK>"]
    assert np.array_equal(Texts(settings, tmp_path)(texts), tokenizer(texts).numpy())
