"""open_clip's tokenizers as one `tokenizer.json`, and what is done to a text before."""

from pathlib import Path
from typing import Any

import open_clip
from open_clip.tokenizer import HFTokenizer, get_clean_fn
from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers, processors

from mmcompress.backbones.hf.tokenizer_files import TOKENIZER_FILE

CLEANERS = {
    "lower": ["ftfy", "html", "strip", "spaces", "lower"],
    "whitespace": ["ftfy", "html", "strip", "spaces"],
    "canonicalize": ["ftfy", "html", "strip", "punctuation", "lower", "spaces"],
}
"""`clean` of open_clip → cleaners of `mmcompress.inputs.texts`."""

PIECES = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""What the merges of open_clip's own tokenizer work within, after its special tokens."""


def tokenizer_settings(
    tokenizer: open_clip.SimpleTokenizer | HFTokenizer, folder: Path, *, embeddings: int
) -> dict[str, Any]:
    """What a tokenizer does, as `mmcompress.inputs.texts` takes it; its file is in `folder`.

    Args:
        embeddings: how many the model has.
    Raises:
        ValueError: it has rules that no file holds.
    """
    replace: list[list[int]] = []
    if isinstance(tokenizer, HFTokenizer):
        made = _of_transformers(tokenizer)
        if tokenizer.strip_sep_token:
            replace.append([tokenizer.tokenizer.sep_token_id, 0])
    else:
        made = _own(tokenizer)
    made.save(str(folder / TOKENIZER_FILE))
    clean = next(names for kind, names in CLEANERS.items() if _cleans(tokenizer, kind))
    settings: dict[str, Any] = {"prompt": "", "clean": clean, "replace": replace}
    return {"tokenizer": TOKENIZER_FILE, **settings, "ids": embeddings}


def _cleans(tokenizer: Any, kind: str) -> bool:
    return tokenizer.clean_fn is get_clean_fn(kind)


def _own(source: open_clip.SimpleTokenizer) -> Tokenizer:
    """Byte pairs within words, as in CLIP (Radford et al. 2021, arXiv:2103.00020)."""
    merges = sorted(source.bpe_ranks, key=source.bpe_ranks.__getitem__)
    names = [source.decoder[number] for number in source.all_special_ids]
    made = Tokenizer(
        models.BPE(vocab=source.encoder, merges=merges, end_of_word_suffix="</w>", unk_token=None)
    )
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(
                Regex("|".join(["(?i)" + names[0], *names[1:], PIECES])), "removed", invert=True
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    first, end = names[:2]
    ids = list(zip(names[:2], source.all_special_ids, strict=False))
    made.post_processor = processors.TemplateProcessing(f"{first} $A {end}", special_tokens=ids)
    length = int(source.context_length)
    made.enable_truncation(length)
    made.enable_padding(pad_id=0, pad_token=source.decoder[0], length=length)
    return made


def _of_transformers(source: HFTokenizer) -> Tokenizer:
    inner, length = source.tokenizer, int(source.context_length)
    if source.tokenizer_mode or not inner.is_fast or inner.pad_token_id is None:
        kind = source.tokenizer_mode or type(inner).__name__
        raise ValueError(f"the tokenizer {kind} has rules that no {TOKENIZER_FILE} holds")
    made = Tokenizer.from_str(inner.backend_tokenizer.to_str())
    made.enable_truncation(length, direction=inner.truncation_side)
    made.enable_padding(
        direction=inner.padding_side,
        pad_id=inner.pad_token_id,
        pad_token=inner.pad_token,
        length=length,
    )
    return made
