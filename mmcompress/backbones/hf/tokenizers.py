"""Text → ids as the tokenizers of transformers give them: reading, calling, storing.

A tokenizer's class may change the text before its `tokenizer.json` sees it: SigLIP 2's lowers the
case, SigLIP's takes out punctuation. So the library chooses and builds the class. What most classes
do is then in one `tokenizers.Tokenizer`, which artifacts store whole; `PYTHON` are the others.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
import transformers
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

log = logging.getLogger(__name__)

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"
PYTHON = ("SiglipTokenizer",)
"""Classes of transformers that have their rules in Python; others of that kind are refused."""

PLAIN_TEXTS = ["a photo of a cat", "two dogs on a red boat"]
"""Nothing in them for a class to clean."""

NO_LIMIT = 2**31
"""Tokens; where a tokenizer says nothing, transformers puts 1e30."""


MOST_TOKENS = 2**22
"""Ids that a stored tokenizer may have; those of the largest published end below 2^19."""


@dataclass(frozen=True)
class PythonTokenizer:
    """A tokenizer of `PYTHON`, and how to call it.

    Attributes:
        source: transformers' own object.
        max_tokens: longer texts are cut.
        to_end: shorter ones are padded up to `max_tokens`; else to the longest text of a batch.
    """

    source: PreTrainedTokenizerBase
    max_tokens: int = NO_LIMIT
    to_end: bool = False


AnyTokenizer: TypeAlias = Tokenizer | PythonTokenizer


def load_tokenizer(name_or_path: str, local: bool) -> AnyTokenizer:
    """What `AutoTokenizer` has, from a folder or the model hub.

    It cuts and pads as the tokenizer's settings say: sides, padding token, model_max_length.

    Raises:
        ValueError: no vocabulary is there, or its class is one that cannot be stored.
        ModuleNotFoundError: its class needs a package that is not installed.
    """
    return _understood(_read(name_or_path, local))


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


def check_filled(found: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without words: without its files transformers builds one of a few tokens.

    Raises:
        ValueError: its vocabulary was not found.
    """
    if not set(found.get_vocab()) - set(found.all_special_tokens):
        kind = type(found).__name__
        raise ValueError(f"there is no vocabulary for its {kind}: add {TOKENIZER_FILE}")


def highest_id(tokenizer: AnyTokenizer) -> int:
    """The highest id that a text can get which spells out no added token."""
    if isinstance(tokenizer, PythonTokenizer):
        added = set(tokenizer.source.added_tokens_decoder)
        usual = set(range(tokenizer.source.vocab_size)) - added
    else:
        added = set(tokenizer.get_added_tokens_decoder())
        usual = set(tokenizer.get_vocab(with_added_tokens=False).values()) - added
    return max([*usual, *to_ids(tokenizer, [""])[0]])


def store_tokenizer(tokenizer: AnyTokenizer, folder: Path) -> list[str]:
    """Write the files that `stored_tokenizer` reads; gives back their names."""
    if not isinstance(tokenizer, PythonTokenizer):
        tokenizer.save(str(folder / TOKENIZER_FILE))
        return [TOKENIZER_FILE]
    saved = tokenizer.source.save_pretrained(folder)
    _forget_place(folder / CONFIG_FILE)
    return [Path(file).name for file in saved if Path(file).is_file()]


def stored_tokenizer(folder: Path) -> AnyTokenizer:
    """What `store_tokenizer` wrote. No other class is reached from there, and no network.

    Raises:
        ValueError: it names another class.
        ModuleNotFoundError: the class needs a package that is not installed.
    """
    file = folder / TOKENIZER_FILE
    if file.exists() or not (folder / CONFIG_FILE).exists():
        tokenizer = Tokenizer.from_file(str(file))
        highest = max(tokenizer.get_vocab().values(), default=0)
        if highest >= MOST_TOKENS:  # the library takes memory for every id up to there
            raise ValueError(f"the tokenizer has the id {highest}, and ids end at {MOST_TOKENS}")
        return tokenizer
    name = json.loads((folder / CONFIG_FILE).read_text("utf-8")).get("tokenizer_class")
    if name not in PYTHON:
        raise ValueError(f"tokenizer_class={name!r} must be one of {', '.join(PYTHON)}")
    return _in_python(_build(getattr(transformers, name), str(folder), local=True))


def write_tokenizer(tokenizer: AnyTokenizer, folder: Path, *, pad_id: int | None = None) -> None:
    """What `AutoTokenizer` reads: the same ids.

    Args:
        pad_id: of the padding token, where the tokenizer is not `prepared` to pad.
    """
    if isinstance(tokenizer, PythonTokenizer):
        store_tokenizer(tokenizer, folder)
        return
    pad, cut = tokenizer.padding or {"pad_id": pad_id}, tokenizer.truncation
    settings: dict[str, Any] = {"padding_side": pad.get("direction", "right").lower()}
    if pad["pad_id"] is not None:
        settings["pad_token"] = tokenizer.id_to_token(pad["pad_id"])
    if cut:
        settings["truncation_side"] = cut["direction"].lower()
        settings["model_max_length"] = cut["max_length"]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings)
    fast.save_pretrained(folder)


def _read(name_or_path: str, local: bool) -> Any:
    """A tokenizer of transformers.

    Where no file names its class, transformers takes the one that belongs to the type of model, and
    builds it anew from the vocabulary in `tokenizer.json`. Where that class splits plain words in
    another way than the file says, the file is not of its kind, and is all that is known.
    """
    file = _find(name_or_path, TOKENIZER_FILE, local)
    if file is None or _declared_class(name_or_path, local) is not None:
        return _build(AutoTokenizer, name_or_path, local)
    plain = _build(PreTrainedTokenizerFast, name_or_path, local)
    try:
        found = _build(AutoTokenizer, name_or_path, local)
        same = found(PLAIN_TEXTS)["input_ids"] == plain(PLAIN_TEXTS)["input_ids"]
    # What a class raises on a file that is not of its kind cannot be listed.
    except Exception as error:
        log.debug("%s: its tokenizer.json is read as it is (%s)", name_or_path, error)
        return plain
    return found if same else plain


def _build(kind: Any, name_or_path: str, local: bool) -> Any:
    try:
        return kind.from_pretrained(name_or_path, local_files_only=local, trust_remote_code=False)
    except ImportError as error:
        raise ModuleNotFoundError(
            "its tokenizer needs packages that are not installed: pip install "
            '"mmcompress[sentencepiece]"'
        ) from error


def _understood(found: Any) -> AnyTokenizer:
    name = type(found).__name__
    check_filled(found)
    if name in PYTHON:
        return _in_python(found)
    plain = getattr(type(found), "_encode_plus", None) is PreTrainedTokenizerFast._encode_plus
    if not plain or found.split_special_tokens:
        raise ValueError(
            f"its {name} has rules that no {TOKENIZER_FILE} holds: give a model whose tokenizer is "
            f"a {TOKENIZER_FILE}"
        )
    tokenizer: Tokenizer = found.backend_tokenizer
    limit = min(found.model_max_length, NO_LIMIT)
    tokenizer.enable_truncation(int(limit), direction=found.truncation_side)
    if found.pad_token_id is None:
        tokenizer.no_padding()
    else:
        tokenizer.enable_padding(
            direction=found.padding_side, pad_id=found.pad_token_id, pad_token=found.pad_token
        )
    return tokenizer


def _in_python(found: PreTrainedTokenizerBase) -> PythonTokenizer:
    return PythonTokenizer(found, int(min(found.model_max_length, NO_LIMIT)))


def _declared_class(name_or_path: str, local: bool) -> str | None:
    for name in (CONFIG_FILE, "config.json"):
        path = _find(name_or_path, name, local)
        found = {} if path is None else json.loads(path.read_text("utf-8"))
        if found.get("tokenizer_class"):
            return found["tokenizer_class"]
    return None


def _find(name_or_path: str, name: str, local: bool) -> Path | None:
    path = cached_file(
        name_or_path,
        name,
        local_files_only=local,
        _raise_exceptions_for_missing_entries=False,
    )
    return None if path is None else Path(path)


def _forget_place(file: Path) -> None:
    """Take out of a tokenizer's settings how it was loaded: the same model gives the same file."""
    settings = json.loads(file.read_text("utf-8"))
    kept = {k: v for k, v in settings.items() if k not in ("is_local", "local_files_only")}
    file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
