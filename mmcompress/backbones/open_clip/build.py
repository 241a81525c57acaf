"""How open_clip's parts are put together without a download: models and tokenizers."""

import copy
import functools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import open_clip
from open_clip.coca_model import CoCa
from open_clip.tokenizer import HFTokenizer
from torch import nn
from transformers import AutoConfig

from mmcompress.backbones.hf.tokenizer_files import check_filled
from mmcompress.backbones.hf.tokenizers import highest_id
from mmcompress.backbones.hub import hub_reachable

TOKENIZER_OPTIONS = {
    *("additional_special_tokens", "clean", "context_length", "language"),
    *("reduction_mask", "strip_sep_token"),
}
"""Of `tokenizer_kwargs`, those that read no other file and run no code."""

Model: TypeAlias = open_clip.CLIP | open_clip.CustomTextCLIP | CoCa
Tokenizer: TypeAlias = open_clip.SimpleTokenizer | HFTokenizer


def build_model(name: str, config: dict[str, Any], text_config: dict[str, Any] | None) -> Model:
    """An untrained model, as `open_clip.create_model` builds it.

    Args:
        name: for messages.
        config: open_clip's model config.
        text_config: that of a Hugging Face text tower, as JSON; None for open_clip's own.
    Raises:
        ValueError: open_clip cannot build it.
    """
    if text_config is None and "hf_model_name" in config["text_cfg"]:
        raise ValueError(f"backbone.name={name!r} has no config of its Hugging Face text tower")
    arguments = copy.deepcopy({key: value for key, value in config.items() if key != "custom_text"})
    arguments["vision_cfg"]["timm_model_pretrained"] = False
    kind: type[Model] = open_clip.CLIP
    if "multimodal_cfg" in config:
        kind = CoCa
    elif config.get("custom_text", False) or text_config is not None:
        kind = open_clip.CustomTextCLIP
    try:
        with _text_config_file(arguments["text_cfg"], text_config):
            model = kind(**arguments)
    # What a library raises on a foreign config cannot be listed.
    except Exception as error:
        raise ValueError(
            f"backbone.name={name!r}: open_clip cannot build a model from its config "
            f"({type(error).__name__}: {error}); correct open_clip_config.json"
        ) from error
    if isinstance(model, CoCa):
        # open_clip leaves this one as the memory was before: any numbers, not even finite ones.
        projection = model.text_decoder.text_projection
        nn.init.normal_(projection, std=len(projection) ** -0.5)
    return model


@contextmanager
def _text_config_file(text: dict[str, Any], text_config: dict[str, Any] | None) -> Iterator[None]:
    """open_clip reads a text tower's config from a hub or a folder: give it a folder."""
    if text_config is None:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(text_config), encoding="utf-8")
        text |= {"hf_model_name": folder, "hf_model_pretrained": False}
        yield


def find_text_config(name: str, config: dict[str, Any]) -> dict[str, Any] | None:
    """The config of a Hugging Face text tower, from a folder, the cache or the model hub.

    Returns:
        As JSON; None when the tower is open_clip's own.
    Raises:
        ValueError: it cannot be had.
    """
    source = config["text_cfg"].get("hf_model_name")
    if source is None:
        return None
    try:
        found = AutoConfig.from_pretrained(
            source, local_files_only=_stay_local(source), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(_unavailable(name, "config of its text tower", source, error)) from error
    return found.to_diff_dict()


def find_tokenizer(name: str, config: dict[str, Any]) -> Tokenizer:
    """The tokenizer that the config names, from a folder, the cache or the model hub.

    Raises:
        ValueError: it cannot be had.
    """
    source = config["text_cfg"].get("hf_tokenizer_name")
    folder = name.removeprefix("local-dir:")
    if source and folder != name:
        source = folder
    return build_tokenizer(name, config, source)


def build_tokenizer(name: str, config: dict[str, Any], source: str | None) -> Tokenizer:
    """open_clip's own tokenizer, or one of Hugging Face's.

    Args:
        name: for messages.
        config: open_clip's model config.
        source: folder or id of a Hugging Face tokenizer; None for open_clip's own.
    Raises:
        ValueError: it cannot be had.
    """
    text = config["text_cfg"]
    length, options = text.get("context_length", 77), text.get("tokenizer_kwargs") or {}
    unknown = sorted(set(options) - TOKENIZER_OPTIONS)
    if unknown:
        raise ValueError(
            f"backbone.name={name!r} sets tokenizer_kwargs.{unknown[0]}, which is not supported: "
            f"take it out of the config, or set one of {', '.join(sorted(TOKENIZER_OPTIONS))}"
        )
    if options.get("reduction_mask"):
        raise ValueError(
            f"backbone.name={name!r}: reduction_mask={options['reduction_mask']!r} of the "
            "tokenizer_kwargs draws the tokens of long texts at random: take it out, and they are "
            "cut at the end"
        )
    if not source:
        return _own_tokenizer(json.dumps({"context_length": length, **options}))
    local: dict[str, Any] = {"local_files_only": _stay_local(source), "trust_remote_code": False}
    mode = text.get("tokenizer_mode")
    try:
        tokenizer = HFTokenizer(source, length, tokenizer_mode=mode, **options, **local)
        check_filled(tokenizer.tokenizer)
    # What `transformers` and `tokenizers` raise on a broken file cannot be listed.
    except Exception as error:
        raise ValueError(_unavailable(name, "tokenizer", source, error)) from error
    return tokenizer


@functools.lru_cache(maxsize=4)
def _own_tokenizer(options: str) -> Tokenizer:
    """One for all models of a process: it takes 20 MB, and nothing in it changes.

    Args:
        options: its arguments, JSON.
    """
    return open_clip.SimpleTokenizer(**json.loads(options))


def vocabulary(tokenizer: Tokenizer) -> int:
    """How many token ids a text can get that spells out no added token."""
    if not isinstance(tokenizer, HFTokenizer):
        return tokenizer.vocab_size
    inner = tokenizer.tokenizer
    padding = -1 if inner.pad_token_id is None else inner.pad_token_id
    return max(highest_id(inner.backend_tokenizer), padding) + 1 if inner.is_fast else len(inner)


def _stay_local(source: str) -> bool:
    return Path(source).is_dir() or not hub_reachable()


def _unavailable(name: str, what: str, source: str, error: Exception) -> str:
    reason = (str(error).strip() or "no message").splitlines()[0]
    return (
        f"backbone.name={name!r} needs the {what}, {source!r}, which cannot be read "
        f"({type(error).__name__}: {reason}): connect to the model hub once, or give "
        "backbone.name=local-dir:PATH of a folder that holds it"
    )
