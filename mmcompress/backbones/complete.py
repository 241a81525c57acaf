"""Whether a model is all that its files hold, and the files hold all of the model."""

import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

ADAPTER_FILES = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "adapter_model.bin",
    "pytorch_lora_weights.safetensors",
)
"""What peft and diffusers write: weights that change those of a base model."""

_ADAPTER_KEYS = re.compile(
    r"\b(lora_\w+|lokr_\w+|hada_\w+|oft_\w+|vera_\w+|ia3_l|base_layer|modules_to_save)\b"
)
"""What peft puts into the names of weights while an adapter is not merged."""


def refuse_adapters(subject: str, folder: Path) -> None:
    """Refuse a folder of adapter weights: the base model alone is another model.

    Args:
        subject: key and value that the folder comes from, for the message.
        folder: need not be there.
    Raises:
        ValueError: says how to merge them.
    """
    found = [name for name in ADAPTER_FILES if (folder / name).is_file()]
    if found:
        base = _base_of(folder / ADAPTER_FILES[0])
        raise ValueError(
            f"{subject} holds adapter weights ({', '.join(found)}) for {base}, which are not "
            f"merged here: save peft's PeftModel.from_pretrained(base_model, {str(folder)!r})"
            ".merge_and_unload() to a folder and give that"
        )


def refuse_adapter_keys(subject: str, keys: Iterable[str]) -> None:
    """Refuse a checkpoint some of whose weights are an adapter's.

    Raises:
        ValueError: names them, and says how to merge them.
    """
    found = sorted(key for key in keys if _ADAPTER_KEYS.search(key))
    if found:
        raise ValueError(
            f"{subject} holds {len(found)} weights of an adapter that is not merged "
            f"({listed(found)}): save peft's merge_and_unload() of that model and give the result"
        )


def check_loaded(
    subject: str,
    model: object,
    found: Mapping[str, Collection[Any]],
    *,
    needless: tuple[str, ...] = (),
) -> None:
    """Refuse a model that transformers could fill a part of; log what it had no place for.

    Args:
        subject: key and value that the files come from, for messages.
        found: the loading info of `from_pretrained(..., output_loading_info=True,
            ignore_mismatched_sizes=True)`.
        needless: starts of the names of weights that may be missing.
    Raises:
        ValueError: weights of an adapter, of another shape, or missing ones; names them.
    """
    kind = type(model).__name__
    refuse_adapter_keys(subject, found["unexpected_keys"])
    if found["mismatched_keys"]:
        shapes = sorted(
            f"{key}: {tuple(there)} in the file, {tuple(wanted)} by config.json"
            for key, there, wanted in found["mismatched_keys"]
        )
        raise ValueError(
            f"{subject} holds weights of other shapes than its config.json asks for "
            f"({listed(shapes)}): correct config.json"
        )
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(needless))
    if missing:
        raise ValueError(
            f"{subject} holds no complete {kind}: {len(missing)} weights are missing "
            f"({listed(missing)})"
        )
    left = sorted(found["unexpected_keys"])
    if left:
        log.warning(
            "%s holds %d weights that are no part of %s and are left out: %s",
            subject,
            len(left),
            kind,
            listed(left),
        )


def listed(names: list[str], most: int = 3) -> str:
    """The first of them, and a mark where there are more.

    Example:
        >>> listed(["a", "b", "c", "d"])
        'a, b, c ...'
    """
    return ", ".join(names[:most]) + (" ..." if len(names) > most else "")


def _base_of(config: Path) -> str:
    try:
        base = json.loads(config.read_text("utf-8")).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError):
        base = None
    return f"the base model {base!r}" if base else "a base model"
