"""Speech-to-text models of transformers: Whisper, an encoder of sound before a decoder of text.

"Robust Speech Recognition via Large-Scale Weak Supervision", Radford et al. 2022, arXiv:2212.04356.
The encoder hears a window of fixed length; the decoder writes what was said in it, token by token,
and reads all that the encoder gives by cross-attention.
"""

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import (
    AutoModelForSpeechSeq2Seq,
    GenerationConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperProcessor,
    WhisperTokenizer,
)
from transformers.utils import logging

from mmcompress.backbones.base import Row
from mmcompress.backbones.capabilities import Generator
from mmcompress.backbones.complete import check_loaded
from mmcompress.backbones.examples import Example
from mmcompress.backbones.feed_forward import gather_mlps
from mmcompress.backbones.hf.files import (
    FromTransformers,
    about,
    named,
    not_loadable,
    refuse_adapters_of,
    stay_local,
)
from mmcompress.backbones.hf.llava import number_blocks
from mmcompress.backbones.hf.transcripts import Transcripts
from mmcompress.backbones.hf.windows import Windows, shorten
from mmcompress.backbones.native import fill, native_state, tower_sizes
from mmcompress.backbones.passes import LABELS, TOKEN_KIND, Batch, Pass
from mmcompress.functional.tokens import PADDING
from mmcompress.modules.tied import tie

EMBEDDING, HEAD = "model.decoder.embed_tokens", "proj_out"

WINDOWS_AT_ONCE = 16
"""In memory while it writes."""


class HFSpeech(FromTransformers, Generator):
    """Adapter for `WhisperForConditionalGeneration`.

    A sound that is longer than the encoder's window is cut where it is quietest, and what is heard
    in each part is joined. Where the decoder's embedding and head are one matrix they stay one: it
    is a target once, as the layer that gives the logits.

    Args:
        model: the dense model; edited in place.
        tokenizer: that belongs to it.
        features: settings of its `WhisperFeatureExtractor`, those that are not the library's.
        generation: settings of its generation config, such as tokens that are never written; the
            model's own when None.
        language, task: of a model of several languages: `german`, and `transcribe` or `translate`.
    Raises:
        ValueError: another kind of model, or a language that a model of English alone cannot have.
    """

    adapter = "hf_speech"
    reads_examples = True
    modalities = ("audio", "text")
    roles: Sequence[Row] = [
        *(
            (rf"model\.{tower}\..*{attention}\.{name}_proj\.weight", modality, f"{role}.{name}")
            for tower, attention, modality, role in [
                ("encoder", "self_attn", "audio", "attn"),
                ("decoder", "self_attn", "text", "attn"),
                ("decoder", "encoder_attn", "text", "cross"),
            ]
            for name in ("q", "k", "v", "out")
        ),
        *(
            (rf"model\.{tower}\..*{name}\.weight", modality, role)
            for tower, modality in [("encoder", "audio"), ("decoder", "text")]
            for name, role in [
                ("fc1", "mlp.up"),
                ("fc2", "mlp.down"),
                ("embed_positions", "position"),
            ]
        ),
        (r"model\.encoder\.conv[12]\.weight", "audio", "patch"),
        (r"model\.decoder\.embed_tokens\.weight|proj_out\.weight", "text", "embed"),
    ]
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [
        (r"model\.encoder\.", "audio"),
        (r"model\.decoder\.|proj_out\.", "text"),
    ]
    part_prefixes: Sequence[tuple[str, str]] = [
        (r"model\.encoder\.", "audio_tower"),
        (r"model\.decoder\.embed_tokens\.|proj_out\.", "embeddings"),
        (r"model\.decoder\.", "language_model"),
    ]
    model: Any

    def __init__(
        self,
        model: WhisperForConditionalGeneration,
        tokenizer: WhisperTokenizer,
        *,
        features: dict[str, Any] | None = None,
        generation: dict[str, Any] | None = None,
        language: str | None = None,
        task: str | None = None,
    ) -> None:
        if not isinstance(model, WhisperForConditionalGeneration):
            raise ValueError(
                f"{type(model).__name__} is not supported: give a WhisperForConditionalGeneration"
            )
        super().__init__(model)
        if model.config.tie_word_embeddings:
            tie(model, embedding=EMBEDDING, head=HEAD)
        gather_mlps(model)
        if generation is not None:
            model.generation_config = GenerationConfig(**generation)
        self.language, self.task = language, task
        self._windows = Windows(features or {}, model.config)
        self.sampling_rate = self._windows.sampling_rate
        several = bool(getattr(model.generation_config, "is_multilingual", False))
        if (language or task) and not several:
            raise ValueError(
                f"backbone.language={language!r} and backbone.task={task!r} are for models of "
                "several languages, and this one has English alone: set both to null"
            )
        self._transcripts = Transcripts(tokenizer, model.config, language=language, task=task)

    @property
    def spellings(self) -> dict[str, str] | None:
        """English words as another spelling has them, for the normalizer; None where none came
        with the model."""
        return self._transcripts.tokenizer.english_spelling_normalizer

    def prepare(self, examples: Sequence[Example], *, answers: bool = True) -> dict[str, Tensor]:
        """See `Generator`.

        Returns:
            `input_features` (B, mel bands, frames); with answers `decoder_input_ids`,
            `token_kind` and `labels` (B, L), each label the token after its place.
        """
        windows = [self._windows.parts(example) for example in examples]
        for example, parts in zip(examples, windows, strict=True):
            if len(parts) > 1:
                said = f" of {example.answers[0][:40]!r}" if example.answers else ""
                raise ValueError(
                    f"the sound{said} lasts {self._windows.length(parts):.1f} s and the model "
                    f"hears {self._windows.seconds:g} s at once, so its tokens cannot be compared: "
                    "cut sound and transcript, or choose evaluators that generate"
                )
        batch = {"input_features": self._windows.features([parts[0] for parts in windows])}
        if answers:
            batch |= self._transcripts([example.first_answer for example in examples])
        return batch

    def answer_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Generator`."""
        found = self.model(
            input_features=batch["input_features"],
            decoder_input_ids=batch["decoder_input_ids"],
            use_cache=False,  # blocks are run again on what they were called with
        )
        return found.logits, batch[LABELS]

    @torch.no_grad()
    def generate(self, examples: Sequence[Example], *, max_tokens: int = 224) -> list[str]:
        """See `Generator`; what is heard in the windows of a long sound is joined, and each of them
        has up to `max_tokens`."""
        windows = [self._windows.parts(example) for example in examples]
        rows = [part for parts in windows for part in parts]
        texts: list[str] = []
        for start in range(0, len(rows), WINDOWS_AT_ONCE):
            features = self._windows.features(rows[start : start + WINDOWS_AT_ONCE])
            texts += self._written(features, max_tokens)
        remaining = iter(texts)
        return [" ".join(itertools.islice(remaining, len(parts))).strip() for parts in windows]

    def _written(self, features: Tensor, max_tokens: int) -> list[str]:
        most = self.model.config.max_target_positions - len(self._transcripts.prefix) - 1
        settings = copy.deepcopy(self.model.generation_config)
        settings.max_length, settings.max_new_tokens = None, min(max_tokens, most)
        settings.do_sample, settings.num_beams = False, 1
        settings.use_cache = number_blocks(self.model.model.decoder)
        spoken: dict[str, Any] = {"language": self.language, "task": self.task}
        features = features.to(self.model.device)
        with _quiet():
            found = self.model.generate(
                features,
                attention_mask=torch.ones_like(features[:, 0]),  # silence is heard too
                generation_config=settings,
                **{key: value for key, value in spoken.items() if value is not None},
            )
        return self._transcripts.read(found)

    def passes(self) -> list[Pass]:
        """One: the encoder runs once for each sound, and the decoder reads what it gives."""

        def logits(batch: Batch) -> Tensor:
            return self.answer_logits(batch)[0]

        def valid(batch: Batch) -> Tensor:
            return torch.ne(batch[TOKEN_KIND], PADDING)

        return [Pass("transcript", logits, ("audio", "text"), valid)]

    @property
    def spec(self) -> dict[str, Any]:
        return {
            "config": self.model.config.to_diff_dict(),
            "features": self._windows.settings,
            "generation": self.model.generation_config.to_diff_dict(),
            "language": self.language,
            "task": self.task,
        }

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        rest = {key: value for key, value in spec.items() if key != "config"}
        config = WhisperConfig(**spec["config"])
        tokenizer = Transcripts.stored(assets)
        return cls(WhisperForConditionalGeneration(config), tokenizer, **rest)

    def save_assets(self, folder: Path) -> list[str]:
        return self._transcripts.save(folder)

    def native_model(self) -> WhisperForConditionalGeneration:
        model, config = self.model, copy.deepcopy(self.model.config)
        for modality, tower in (("audio", "encoder"), ("text", "decoder")):
            sizes = tower_sizes(self, modality)
            if sizes is not None:
                setattr(config, f"{tower}_layers", sizes.blocks)
                setattr(config, f"{tower}_ffn_dim", sizes.mlp)
        native = WhisperForConditionalGeneration(config)
        fill(native, native_state(model), "transformers")
        native.generation_config = copy.deepcopy(model.generation_config)
        if config.decoder_layers < model.config.decoder_layers:
            # They name blocks by their places, which the others have taken.
            native.generation_config.alignment_heads = None  # type: ignore[attr-defined]
        return native

    def write_settings(self, folder: Path) -> None:
        extractor, tokenizer = self._windows.extractor, self._transcripts.tokenizer
        WhisperProcessor(extractor, tokenizer).save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the library warns of its own arguments, each time that Whisper writes."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def from_pretrained(
    name_or_path: str,
    *,
    window: int | None = None,
    language: str | None = None,
    task: str | None = None,
) -> HFSpeech:
    """A Whisper from a folder or the model hub.

    Args:
        window: seconds that it hears at once, fewer than the 30 that it was trained with: a third
            takes a quarter of the time, for utterances that are short.
        language, task: of `HFSpeech`.
    Raises:
        ValueError: nothing loadable there, or a model of another kind.
    """
    local = stay_local(name_or_path)
    refuse_adapters_of(name_or_path, local)
    places: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
    try:
        loaded: Any = AutoModelForSpeechSeq2Seq.from_pretrained(
            name_or_path,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused by name
            **places,
        )
        tokenizer = WhisperTokenizer.from_pretrained(name_or_path, **places)
        settings, _ = WhisperFeatureExtractor.get_feature_extractor_dict(name_or_path, **places)
    # SafetensorError and what `tokenizers` raises on a broken file are bare Exceptions.
    except Exception as error:
        what = "speech-to-text model (Whisper)"
        raise ValueError(not_loadable(name_or_path, what, local, error)) from error
    model, found = loaded
    check_loaded(named(name_or_path), model, found)
    with about(named(name_or_path)):
        if window is not None:
            settings = shorten(model, settings, window)
        return HFSpeech(model, tokenizer, features=settings, language=language, task=task).eval()
