"""Image-text models of transformers that write answers: an image tower before a language model.

All that `AutoModelForImageTextToText` knows and `KINDS` names, by one adapter: what differs between
them is in the library's own processor and model, and in the names of `vlm_parts`.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
    PretrainedConfig,
)

from mmcompress.backbones.attention import split_attention
from mmcompress.backbones.base import Row
from mmcompress.backbones.capabilities import Generator
from mmcompress.backbones.complete import check_loaded
from mmcompress.backbones.examples import Example
from mmcompress.backbones.fused import split_fused
from mmcompress.backbones.hf.files import (
    FromTransformers,
    about,
    named,
    not_loadable,
    refuse_adapters_of,
    stay_local,
)
from mmcompress.backbones.hf.llava import depth_as_it_is, drop_unused_blocks, number_blocks
from mmcompress.backbones.hf.vlm_inputs import IDS, NOT_FOR_THE_MODEL, Inputs
from mmcompress.backbones.hf.vlm_parts import PART_PREFIXES, ROLES, TOWER_PREFIXES
from mmcompress.backbones.passes import LABELS, TOKEN_KIND, Batch, Pass
from mmcompress.functional.tokens import IGNORED, PADDING
from mmcompress.modules.tied import tie

KINDS = (
    "gemma3",
    "idefics3",
    "internvl",
    "llava",
    "llava_onevision",
    "mistral3",
    "paligemma",
    "qwen2_5_vl",
    "qwen3_vl",
    "smolvlm",
)
"""Types of model that are known to work."""

NO_LIMIT = 2**31


class HFVlm(FromTransformers, Generator):
    """Adapter for image-text models of transformers.

    Args:
        model: the dense model.
        processor: of transformers, which makes its inputs.
        ends: ids of tokens that end an answer; those of the generation config, the text config or
            the tokenizer when None.
    Raises:
        ValueError: a model of a type that is not in `KINDS`, a processor without tokenizer, or no
            token that ends an answer.
    """

    adapter = "hf_vlm"
    reads_examples = True
    reads_alpha = False
    mixes_modalities = True
    roles: Sequence[Row] = ROLES
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = TOWER_PREFIXES
    part_prefixes: Sequence[tuple[str, str]] = PART_PREFIXES
    model: Any

    def __init__(self, model: Any, processor: Any, *, ends: Sequence[int] | None = None) -> None:
        check_kind(model.config)
        super().__init__(model)
        drop_unused_blocks(model)
        split_attention(model)
        split_fused(model)
        self._tie()
        text = model.config.get_text_config()
        self.ends = list(ends) if ends is not None else _ends_of(model, processor)
        self.inputs = Inputs(
            processor,
            model_type=model.config.model_type,
            image_token=_image_token(model.config),
            ends=self.ends,
            context=getattr(text, "max_position_embeddings", None) or NO_LIMIT,
        )

    def _tie(self) -> None:
        """Let a tied embedding look up its rows in the head, which is both from then on."""
        if self.model.config.tie_word_embeddings:
            embedding, head = self.model.get_input_embeddings(), self.model.get_output_embeddings()
            paths = {module: path for path, module in self.model.named_modules()}
            tie(self.model, embedding=paths[embedding], head=paths[head])
            self.part_prefixes = [(rf"{paths[head]}\.", "embeddings"), *PART_PREFIXES]

    def prepare(self, examples: Sequence[Example], *, answers: bool = True) -> Batch:
        return self.inputs.prepare(examples, answers=answers)

    def answer_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Generator`; from the first token of any answer on, for the others cost memory."""
        labels = batch[LABELS]
        answered = (labels != IGNORED).any(dim=0)
        first = int(answered.int().argmax()) if answered.any() else 1
        kept = labels.shape[1] - first + 1
        # Blocks are run again on what they were called with, so nothing is cached.
        with depth_as_it_is(self.model):
            found = self.model(**self._given(batch), use_cache=False, logits_to_keep=kept)
        return found.logits[:, :-1], labels[:, first:]

    @torch.no_grad()
    def generate(self, examples: Sequence[Example], *, max_tokens: int = 32) -> list[str]:
        device = next(self.parameters()).device
        batch = self.prepare(examples, answers=False)
        given = {key: value.to(device) for key, value in self._given(batch).items()}
        settings = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,
            use_cache=number_blocks(self.model.get_decoder()),
            eos_token_id=self.ends,
            pad_token_id=self.inputs.tokenizer.pad_token_id,
        )
        with depth_as_it_is(self.model):
            found = self.model.generate(**given, generation_config=settings)
        return [self.inputs.text(row) for row in found[:, given[IDS].shape[1] :].tolist()]

    def passes(self) -> list[Pass]:
        """The image tower alone; all together, where the language model reads."""

        def logits(batch: Batch) -> Tensor:
            return self.answer_logits(batch)[0]

        def valid(batch: Batch) -> Tensor:
            return batch[TOKEN_KIND] != PADDING

        return [
            Pass("image", self.image_features, ("image",), timed=False),
            Pass("answer", logits, ("text", "shared"), valid, repeats=True),
        ]

    def image_features(self, batch: Batch) -> Tensor:
        """What the language model reads of all images of a batch, (N, D); N is 0 without images."""
        given = self._given(batch)
        if "pixel_values" not in given:
            return torch.empty(0, self.model.config.get_text_config().hidden_size)
        taken = inspect.signature(self.model.model.get_image_features).parameters
        seen = {key: value for key, value in given.items() if key in taken}
        with depth_as_it_is(self.model):
            found = self.model.model.get_image_features(**seen).pooler_output
        parts = [found] if isinstance(found, Tensor) else list(found)
        return torch.cat([part.flatten(0, -2) for part in parts])

    def _given(self, batch: Batch) -> dict[str, Tensor]:
        """The processor's keys, for the model."""
        return {key: value for key, value in batch.items() if key not in NOT_FOR_THE_MODEL}

    @property
    def spec(self) -> dict[str, Any]:
        return {"config": self.model.config.to_diff_dict(), "ends": self.ends}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        config = AutoConfig.for_model(**spec["config"])
        check_kind(config)
        processor = AutoProcessor.from_pretrained(
            str(assets), local_files_only=True, trust_remote_code=False
        )
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
        return cls(model, processor, ends=spec["ends"])

    def write_settings(self, folder: Path) -> None:
        self.inputs.processor.save_pretrained(folder)
        self.model.generation_config.save_pretrained(folder)

    def save_assets(self, folder: Path) -> list[str]:
        before = {path.name for path in folder.iterdir()}
        self.inputs.processor.save_pretrained(folder)
        return sorted({path.name for path in folder.iterdir()} - before)


def check_kind(config: PretrainedConfig) -> None:
    """Refuse a model that nobody has tried.

    Raises:
        ValueError: names the types that are known to work.
    """
    if config.model_type not in KINDS:
        raise ValueError(
            f"model_type={config.model_type!r} of the config is not supported: give a model of one "
            f"of the types {', '.join(KINDS)}, or write an adapter (examples/)"
        )


def from_pretrained(name_or_path: str) -> HFVlm:
    """An image-text model from a folder or the model hub.

    Raises:
        ValueError: nothing loadable there, or a model of another kind.
    """
    local = stay_local(name_or_path)
    refuse_adapters_of(name_or_path, local)
    places: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    what = "image-text model with a processor"
    try:
        config = AutoConfig.from_pretrained(name_or_path, **places)
    except Exception as error:  # what a broken file raises cannot be listed
        raise ValueError(not_loadable(name_or_path, what, local, error)) from error
    with about(named(name_or_path)):
        check_kind(config)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name_or_path,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused by name
            **places,
        )
        processor = AutoProcessor.from_pretrained(name_or_path, **places)
    # SafetensorError and what `tokenizers` raises on a broken file are bare Exceptions.
    except Exception as error:
        raise ValueError(not_loadable(name_or_path, what, local, error)) from error
    model, found = loaded
    check_loaded(named(name_or_path), model, found)
    with about(named(name_or_path)):
        return HFVlm(model, processor).eval()


def _image_token(config: Any) -> int:
    found = getattr(config, "image_token_id", None)
    if not isinstance(found, int):
        raise ValueError(f"image_token_id={found} of the config must be one token: set it")
    return found


def _ends_of(model: Any, processor: Any) -> list[int]:
    """Ids of the tokens that end an answer."""
    tokenizer = getattr(processor, "tokenizer", None)
    for owner in (model.generation_config, model.config.get_text_config(), tokenizer):
        found = getattr(owner, "eos_token_id", None)
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    raise ValueError("no token ends an answer: set eos_token_id in generation_config.json")
