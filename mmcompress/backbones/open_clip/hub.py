"""Where the open_clip adapter gets configs and weights: the library, a folder, the model hub."""

import difflib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import hf_hub_download
from safetensors.torch import save_file
from torch import Tensor, nn

from mmcompress.backbones.complete import refuse_adapter_keys, refuse_adapters
from mmcompress.backbones.hub import hub_reachable
from mmcompress.functional.finite import check_weights
from mmcompress.system.files import write_json
from mmcompress.system.memory import LARGE

log = logging.getLogger(__name__)

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class Weights:
    """A weights file, and what its tag says of it.

    Attributes:
        path: the file.
        tag: open_clip's description of the tag; empty for a file that the user named.
    """

    path: Path
    tag: dict[str, Any] = field(default_factory=dict)


def preprocessing_of(stored: dict[str, Any]) -> dict[str, Any]:
    """Those entries of a tag or a `preprocess_cfg` that `image_transform` takes.

    open_clip takes the size from the model, one number for all channels, and null for its default.

    Raises:
        ValueError: pictures of another mode than RGB.
    """
    if stored.get("mode") not in (None, "RGB"):
        raise ValueError(f"mode={stored['mode']!r} of the preprocess_cfg must be RGB")
    keys = ("mean", "std", "resize_mode", "interpolation", "fill_color")
    found = {key: stored[key] for key in keys if stored.get(key) is not None}
    for key in ("mean", "std"):
        if isinstance(found.get(key), (int, float)):
            found[key] = [found[key]] * 3
    return found


def read_config(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A copy of open_clip's model config and the preprocessing that is stored with it.

    Args:
        name: of `open_clip.list_models()`, or `local-dir:PATH`.
    Raises:
        ValueError: no such model, or a folder without a usable `open_clip_config.json`.
    """
    local = name.removeprefix("local-dir:")
    if local != name:
        refuse_adapters(f"backbone.name={name!r}", Path(local))
    else:
        names = open_clip.list_models()
        config = open_clip.get_model_config(name) if name in names else None
        if config is None:
            close = difflib.get_close_matches(name, names, n=5, cutoff=0.4)
            raise ValueError(
                f"backbone.name={name!r} is no model of open_clip; close to it: "
                f"{', '.join(close) or 'none'} (all: open_clip.list_models())"
            )
        return config, {}
    try:
        stored = json.loads((Path(local) / CONFIG_FILE).read_text("utf-8"))
        config = stored["model_cfg"]
        towers = {key: dict(config[key]) for key in ("vision_cfg", "text_cfg")}
        return config | towers, preprocessing_of(stored.get("preprocess_cfg", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"backbone.name={name!r}: the folder needs an open_clip_config.json that holds a "
            f"model_cfg with vision_cfg and text_cfg ({type(error).__name__}: {error})"
        ) from error


def warn_of_unread_weights(name: str) -> None:
    """Say so where a folder holds weights and nobody asked for them: open_clip would read them."""
    folder = Path(name.removeprefix("local-dir:"))
    there = [file for file in WEIGHT_FILES if name != str(folder) and (folder / file).is_file()]
    if there:
        log.warning(
            "backbone.name=%r holds %s, which is not read: the weights are random unless "
            "backbone.pretrained=%s",
            name,
            there[0],
            folder / there[0],
        )


def find_weights(name: str, pretrained: str) -> Weights:
    """The file of a tag, downloaded unless it is in the cache, or a file of the user's.

    Args:
        name: the model.
        pretrained: one of its tags, or a path.
    Raises:
        ValueError: neither a tag nor a file, or a tag that cannot be had.
    """
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained in tags:
        tag = open_clip.get_pretrained_cfg(name, pretrained)
        return Weights(_download(name, pretrained, tag["hf_hub"]), tag)
    file = Path(pretrained)
    refuse_adapters(f"backbone.pretrained={pretrained!r}", file if file.is_dir() else file.parent)
    if not file.is_file():
        raise ValueError(
            f"backbone.pretrained={pretrained!r} is neither a file nor a tag of {name}; "
            f"its tags: {', '.join(tags) or 'none'}; null gives random weights"
        )
    return Weights(file)


def load_weights(model: nn.Module, name: str, weights: Path) -> None:
    """Fill an untouched open_clip model, strictly: every tensor is there and none is left over.

    Only position embeddings may differ in length; open_clip interpolates them.

    Args:
        model: parameters may be on the meta device, but for files that `copies_weights` names.
    Raises:
        ValueError: the file holds something else, or values that are not finite.
    """
    keys: list[str] = []
    try:
        with _taking_over(model, keys) if not copies_weights(weights) else nullcontext():
            open_clip.load_checkpoint(model, str(weights))
    # What torch raises on a file of something else cannot be listed.
    except Exception as error:
        subject = f"backbone.pretrained={str(weights)!r}"
        refuse_adapter_keys(subject, keys)
        reason = " ".join(str(error).split())[:200] or "no message"
        raise ValueError(
            f"{subject} does not hold the weights of {name} ({type(error).__name__}: {reason})"
        ) from error
    check_weights(model, str(weights))


def copies_weights(weights: Path) -> bool:
    """Whether open_clip copies from this kind of file, tensor by tensor, into the model's own."""
    return weights.suffix in (".npz", ".npy")


@contextmanager
def _taking_over(model: nn.Module, keys: list[str]) -> Iterator[None]:
    """Let `load_state_dict` take the tensors that it is given, in the model's dtypes, as they are.

    A model on the meta device then needs no memory of its own, and what is mapped from a file stays
    so: open_clip's own function copies.

    Args:
        keys: gets the names of the tensors.
    """

    def take_over(state: Mapping[str, Tensor], strict: bool = True) -> object:
        keys.extend(state)
        dtypes = {key: tensor.dtype for key, tensor in model.state_dict().items()}
        state = {key: tensor.to(dtypes.get(key, tensor.dtype)) for key, tensor in state.items()}
        # Bytes in the file need not be aligned, and kernels then add up in another order.
        state = {key: t.clone() if t.nbytes < LARGE else t for key, t in state.items()}
        return type(model).load_state_dict(model, state, strict=strict, assign=True)

    model.load_state_dict = take_over  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        del model.load_state_dict


def save_weights(
    model: nn.Module, config: dict[str, Any], preprocessing: dict[str, Any], folder: Path
) -> None:
    """Write what open_clip reads from `local-dir:FOLDER` and from a repository of the model hub."""
    state = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(state, folder / WEIGHT_FILES[0])
    write_json(folder / CONFIG_FILE, {"model_cfg": config, "preprocess_cfg": preprocessing})


def _download(name: str, tag: str, place: str) -> Path:
    repository, _, named = place.rpartition("/")  # "owner/name/", or "owner/name/file"
    reachable = hub_reachable()
    cause: OSError | None = None
    for file in [named] if named else WEIGHT_FILES:
        try:
            return Path(hf_hub_download(repository, file, local_files_only=not reachable))
        except OSError as error:
            cause = error
    reason = "has no weights file" if reachable else "cannot be reached and is not in the cache"
    raise ValueError(
        f"backbone.name={name!r} backbone.pretrained={tag!r}: {repository} on the model hub "
        f"{reason}; give the path of a downloaded weights file as backbone.pretrained, or null "
        "for random weights"
    ) from cause
