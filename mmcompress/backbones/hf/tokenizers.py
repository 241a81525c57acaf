"""Text → ids as the tokenizers of transformers give them, and back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

NO_LIMIT = 2**31
"""Tokens; where a tokenizer says nothing, transformers puts 1e30."""


@dataclass(frozen=True)
class PythonTokenizer:
    """A tokenizer of `tokenizer_files.PYTHON`, and how to call it.

    Attributes:
        source: transformers' own object.
        max_tokens: longer texts are cut.
        to_end: shorter ones are padded up to `max_tokens`; else to the longest text of a batch.
    """

    source: PreTrainedTokenizerBase
    max_tokens: int = NO_LIMIT
    to_end: bool = False


AnyTokenizer: TypeAlias = Tokenizer | PythonTokenizer


def prepared(
    tokenizer: AnyTokenizer, *, max_tokens: int, pad_id: int, to_end: bool, own_limit: bool = True
) -> AnyTokenizer:
    """A copy that cuts and pads.

    Args:
        tokenizer: special tokens included; where it says how to pad, it is heeded.
        max_tokens: longer texts are cut.
        pad_id: what stands after shorter ones, unless the tokenizer knows it.
        to_end: up to `max_tokens`; otherwise as far as the longest text of a batch.
        own_limit: cut to fewer tokens where the tokenizer itself sets a lower limit.
    """
    limit = min(max_tokens, token_limit(tokenizer)) if own_limit else max_tokens
    if isinstance(tokenizer, PythonTokenizer):
        return PythonTokenizer(tokenizer.source, limit, to_end)
    cut, pad = tokenizer.truncation or {}, tokenizer.padding or {"pad_id": pad_id}
    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.enable_truncation(limit, direction=cut.get("direction", "right").lower())
    copied.enable_padding(
        direction=pad.get("direction", "right").lower(),
        pad_id=pad["pad_id"],
        pad_token=tokenizer.id_to_token(pad["pad_id"]) or "",
        length=limit if to_end else None,
    )
    return copied


def unlimited(tokenizer: AnyTokenizer) -> AnyTokenizer:
    """A copy that neither cuts nor pads."""
    if isinstance(tokenizer, PythonTokenizer):
        return PythonTokenizer(tokenizer.source)
    copied = Tokenizer.from_str(tokenizer.to_str())
    copied.no_truncation()
    copied.no_padding()
    return copied


def padding_id(tokenizer: AnyTokenizer) -> int:
    """The id that a `prepared` tokenizer pads with."""
    if isinstance(tokenizer, PythonTokenizer):
        return int(tokenizer.source.pad_token_id)
    padding = tokenizer.padding
    assert padding is not None, "the tokenizer is not prepared"
    return int(padding["pad_id"])


def token_limit(tokenizer: AnyTokenizer) -> int:
    """How many tokens of a text it keeps, special tokens included."""
    if isinstance(tokenizer, PythonTokenizer):
        return tokenizer.max_tokens
    return int((tokenizer.truncation or {}).get("max_length", NO_LIMIT))


def to_ids(tokenizer: AnyTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text, special tokens included, cut and padded as the tokenizer is prepared to."""
    if not isinstance(tokenizer, PythonTokenizer):
        return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]
    if not texts:
        return []
    padding = "max_length" if tokenizer.to_end else "longest"
    limit = tokenizer.max_tokens
    ids: Any = tokenizer.source(list(texts), padding=padding, truncation=True, max_length=limit)
    return ids["input_ids"]


def to_bare_ids(tokenizer: AnyTokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Ids of each text by an `unlimited` tokenizer, without the special tokens around it."""
    if not isinstance(tokenizer, PythonTokenizer):
        found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in found]
    return [tokenizer.source.encode(text, add_special_tokens=False) for text in texts]


def to_text(tokenizer: AnyTokenizer, ids: Sequence[int]) -> str:
    """The text that ids spell, without special tokens."""
    if not isinstance(tokenizer, PythonTokenizer):
        return tokenizer.decode(list(ids), skip_special_tokens=True)
    return str(tokenizer.source.decode(list(ids), skip_special_tokens=True))


def id_tensor(rows: Sequence[Sequence[int]], texts: Sequence[str], embeddings: int) -> Tensor:
    """Rows of ids of equal length as a tensor (B, L) int64, once `check_ids` has seen them."""
    ids = torch.tensor(rows, dtype=torch.int64)
    check_ids(ids, texts, embeddings)
    return ids


def check_ids(ids: Tensor, texts: Sequence[str], embeddings: int) -> None:
    """Refuse ids that the model has no embedding for.

    Args:
        ids: (B, L) int64.
        texts: that they are of, for the message.
        embeddings: how many the model has.
    Raises:
        ValueError: names the text.
    """
    if ids.numel() and int(ids.max()) >= embeddings:
        text = texts[int((ids >= embeddings).any(dim=1).int().argmax())]
        raise ValueError(
            f"the text {text[:60]!r} has the token {int(ids.max())} and the model has embeddings "
            f"for 0 to {embeddings - 1}: leave it out, or give the tokenizer of this model"
        )


def check_vocabulary(tokenizer: AnyTokenizer, embeddings: int) -> None:
    """Refuse a tokenizer whose tokens the model has no embeddings for.

    Tokens that were added to the vocabulary and that no text gets of itself do not count: published
    models have such tokens behind their last embedding. A text that spells one out is refused by
    `id_tensor`. Artifacts are not held to this: 0.1 wrote such models, which work on most texts.

    Args:
        embeddings: how many the model has.
    Raises:
        ValueError: gives both numbers.
    """
    highest = highest_id(tokenizer)
    if highest >= embeddings:
        raise ValueError(
            f"the tokenizer has {highest + 1} tokens and the model embeddings for {embeddings}: "
            "give the tokenizer that the model was trained with"
        )


def check_padding(tokenizer: AnyTokenizer, embeddings: int) -> None:
    """Refuse a padding token that the model has no embedding for.

    Args:
        embeddings: how many the model has.
    Raises:
        ValueError: gives both numbers.
    """
    pads = isinstance(tokenizer, PythonTokenizer) or tokenizer.padding is not None
    if pads and not 0 <= padding_id(tokenizer) < embeddings:
        raise ValueError(
            f"the padding token {padding_id(tokenizer)} has no embedding, the model has "
            f"{embeddings}: correct pad_token_id of the text_config"
        )


def highest_id(tokenizer: AnyTokenizer) -> int:
    """The highest id that a text can get which spells out no added token."""
    if isinstance(tokenizer, PythonTokenizer):
        added = set(tokenizer.source.added_tokens_decoder)
        usual = set(range(tokenizer.source.vocab_size)) - added
    else:
        added = set(tokenizer.get_added_tokens_decoder())
        usual = set(tokenizer.get_vocab(with_added_tokens=False).values()) - added
    return max([*usual, *to_ids(tokenizer, [""])[0]])
