"""A tokenizer's files: read from a model, stored in an artifact, written for transformers.

A tokenizer's class may change the text before its `tokenizer.json` sees it: SigLIP 2's lowers the
case, SigLIP's takes out punctuation. So the library chooses and builds the class. What most classes
do is then in one `tokenizers.Tokenizer`, which artifacts store whole; `PYTHON` are the others.
"""

import json
import logging
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.utils import cached_file

from mmcompress.backbones.hf.siglip import PROMPT, as_file
from mmcompress.backbones.hf.tokenizers import (
    NO_LIMIT,
    AnyTokenizer,
    PythonTokenizer,
    padding_id,
    prepared,
)

log = logging.getLogger(__name__)


TOKENIZER_FILE = "tokenizer.json"


CONFIG_FILE = "tokenizer_config.json"


PYTHON = ("SiglipTokenizer",)
"""Classes of transformers that have their rules in Python; others of that kind are refused."""


PLAIN_TEXTS = ["a photo of a cat", "two dogs on a red boat"]
"""Nothing in them for a class to clean."""


MOST_TOKENS = 2**22
"""Ids that a stored tokenizer may have; those of the largest published end below 2^19."""


def load_tokenizer(name_or_path: str, local: bool) -> AnyTokenizer:
    """What `AutoTokenizer` has, from a folder or the model hub.

    It cuts and pads as the tokenizer's settings say: sides, padding token, model_max_length.

    Raises:
        ValueError: no vocabulary is there, or its class is one that cannot be stored.
        ModuleNotFoundError: its class needs a package that is not installed.
    """
    return _understood(_read(name_or_path, local))


def check_filled(found: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without words: without its files transformers builds one of a few tokens.

    Raises:
        ValueError: its vocabulary was not found.
    """
    if not set(found.get_vocab()) - set(found.all_special_tokens):
        kind = type(found).__name__
        raise ValueError(f"there is no vocabulary for its {kind}: add {TOKENIZER_FILE}")


def store_tokenizer(tokenizer: AnyTokenizer, folder: Path) -> list[str]:
    """Write the files that `stored_tokenizer` reads; gives back their names."""
    if not isinstance(tokenizer, PythonTokenizer):
        tokenizer.save(str(folder / TOKENIZER_FILE))
        return [TOKENIZER_FILE]
    saved = tokenizer.source.save_pretrained(folder)
    forget_place(folder / CONFIG_FILE)
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


def tokenizer_settings(tokenizer: AnyTokenizer, folder: Path, *, embeddings: int) -> dict[str, Any]:
    """What a tokenizer does, as `mmcompress.inputs.texts` takes it; its file is in `folder`.

    Args:
        tokenizer: `prepared`.
        embeddings: how many the model has.
    """
    prompt = ""
    if isinstance(tokenizer, PythonTokenizer):
        prompt = PROMPT
        limit, to_end = tokenizer.max_tokens, tokenizer.to_end
        pad_id = padding_id(tokenizer)
        tokenizer = prepared(
            as_file(tokenizer.source), max_tokens=limit, pad_id=pad_id, to_end=to_end
        )
        assert isinstance(tokenizer, Tokenizer)
    tokenizer.save(str(folder / TOKENIZER_FILE))
    bare: dict[str, Any] = {"prompt": prompt, "clean": [], "replace": []}
    return {"tokenizer": TOKENIZER_FILE, **bare, "ids": embeddings}


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


def forget_place(file: Path) -> None:
    """Take out of a tokenizer's settings how it was loaded: the same model gives the same file."""
    settings = json.loads(file.read_text("utf-8"))
    kept = {k: v for k, v in settings.items() if k not in ("is_local", "local_files_only")}
    file.write_text(json.dumps(kept, indent=2, sort_keys=True) + "\n", encoding="utf-8")
