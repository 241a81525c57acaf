"""What all adapters for transformers read beside weights and tokenizer: preprocessing, errors."""

import copy
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from transformers import PretrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.complete import ADAPTER_FILES, refuse_adapters
from mmcompress.backbones.hf.tokenizer_files import TOKENIZER_FILE
from mmcompress.backbones.hub import hub_reachable
from mmcompress.backbones.native import fill, native_state, tower_sizes

PREPROCESSOR_FILE = "preprocessor_config.json"


def stay_local(name_or_path: str) -> bool:
    """Whether files are to be had from a folder or the cache alone."""
    return Path(name_or_path).is_dir() or not hub_reachable()


def named(name_or_path: str) -> str:
    """Key and value that a model comes from, as messages begin."""
    return f"backbone.name_or_path={name_or_path!r}"


def refuse_adapters_of(name_or_path: str, local: bool) -> None:
    """Refuse adapter weights, in a folder or on the model hub.

    Raises:
        ValueError: there are some; says how to merge them.
    """
    folder = Path(name_or_path)
    if not folder.is_dir():
        try:
            file = cached_file(
                name_or_path,
                ADAPTER_FILES[0],
                local_files_only=local,
                _raise_exceptions_for_missing_entries=False,
            )
        except OSError:  # that there is no such model is said when it is read
            return
        if file is None:
            return
        folder = Path(file).parent
    refuse_adapters(named(name_or_path), folder)


class FromTransformers(Backbone):
    """A model that transformers has too: what all adapters for it write in the same way.

    Its `model` is a model of transformers, with a config for each tower.
    """

    library = "hf"

    def native_model(self) -> PreTrainedModel:
        """The library's own model with these weights, dense.

        Raises:
            ValueError: transformers cannot express what this one computes.
        """
        model: Any = self.model
        config = copy.deepcopy(model.config)
        for name, modality in (("vision_config", "image"), ("text_config", "text")):
            if hasattr(config, name):
                fit_config(getattr(config, name), self, modality)
        native = type(model)(config)
        fill(native, native_state(model), "transformers")
        return native

    @abstractmethod
    def write_settings(self, folder: Path) -> None:
        """Write what `from_pretrained` reads beside config and weights: tokenizer, processors."""

    def write_native(self, folder: Path) -> None:
        self.native_model().save_pretrained(folder)
        self.write_settings(folder)


def fit_config(config: PretrainedConfig, backbone: Backbone, modality: str) -> None:
    """Tell a tower's config of blocks, neurons and heads that are gone."""
    sizes, own = tower_sizes(backbone, modality), cast(Any, config)
    if sizes is None:
        return
    own.num_hidden_layers, own.intermediate_size = sizes.blocks, sizes.mlp
    if getattr(own, "layer_types", None) is not None:  # all are alike where some are gone
        own.layer_types = own.layer_types[: sizes.blocks]
    if sizes.heads is not None:
        own.num_attention_heads, own.num_key_value_heads, own.head_dim = sizes.heads


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Say of which model a message is."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{subject}: {error}") from error


def not_loadable(name_or_path: str, what: str, local: bool, error: Exception) -> str:
    """One sentence on a model that could not be read, and what to do."""
    subject = named(name_or_path)
    files = f"config.json, model.safetensors and {TOKENIZER_FILE}"
    if local and not Path(name_or_path).is_dir():
        return (
            f"{subject} is no folder, it is not in the cache of the model hub, and the hub cannot "
            f"be reached: give a folder with {files}, or backbone=mini, which needs no download"
        )
    reason = (str(error).strip() or "no message").splitlines()[0]
    return (
        f"{subject} cannot be loaded as a {what} with its tokenizer ({type(error).__name__}: "
        f"{reason}): give a folder with {files}, or the id of such a model"
    )
