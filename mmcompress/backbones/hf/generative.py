"""Generative image-text models of transformers: LLaVA, an image encoder before a language model.

"Visual Instruction Tuning", Liu et al. 2023, arXiv:2304.08485: the features of the image's patches
pass a small projector and stand in front of the text as if they were tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    GenerationConfig,
    LlavaForConditionalGeneration,
)

from mmcompress.backbones.attention import split_attention
from mmcompress.backbones.base import Row
from mmcompress.backbones.capabilities import Encoder, Generator
from mmcompress.backbones.complete import check_loaded
from mmcompress.backbones.examples import Example
from mmcompress.backbones.hf.bert import mean_pool
from mmcompress.backbones.hf.files import (
    FromTransformers,
    about,
    named,
    not_loadable,
    refuse_adapters_of,
    stay_local,
)
from mmcompress.backbones.hf.llava import depth_as_it_is, drop_unused_blocks, number_blocks
from mmcompress.backbones.hf.processors import pixels_of, read_image_processor
from mmcompress.backbones.hf.tokenizer_files import (
    load_tokenizer,
    store_tokenizer,
    stored_tokenizer,
    write_tokenizer,
)
from mmcompress.backbones.hf.tokenizers import (
    AnyTokenizer,
    check_padding,
    check_vocabulary,
    id_tensor,
    to_bare_ids,
    to_text,
    unlimited,
)
from mmcompress.backbones.images import CLIP_MEAN, CLIP_STD
from mmcompress.backbones.passes import Batch, Pass
from mmcompress.functional.tokens import IGNORED


class HFGenerative(FromTransformers, Generator, Encoder):
    """Adapter for `LlavaForConditionalGeneration` with a language model like Llama's.

    The image comes first, then the caption, whose every token is predicted from all before it. As
    embeddings (for agreement with the dense model) serve the means over the projected patches and
    over the language model's last hidden states of a caption alone.

    Args:
        model: the dense model.
        tokenizer: maps text to ids; its own special tokens are left out, those of the model's
            config put in.
        image_processor: settings of transformers' image processor.
        mean, std, resize_mode, interpolation: of `image_transform`, where there are no such
            settings.
        max_tokens: longer captions are cut.
    Raises:
        ValueError: another kind of model, or special tokens that its config does not name.
    """

    adapter = "hf_generative"
    reads_alpha = True
    roles: Sequence[Row] = [
        *(
            (rf"{tower}.*{name}\.weight", modality, role)
            for tower, modality in [
                (r"model\.vision_tower\.", "image"),
                (r"model\.language_model\.", "text"),
            ]
            for name, role in [
                (r"q_proj", "attn.q"),
                (r"k_proj", "attn.k"),
                (r"v_proj", "attn.v"),
                (r"(?:out_proj|o_proj)", "attn.out"),
                (r"mlp\.(?:fc1|up_proj)", "mlp.up"),
                (r"mlp\.gate_proj", "mlp.gate"),
                (r"mlp\.(?:fc2|down_proj)", "mlp.down"),
                (r"embed_tokens", "embed"),
                (r"position_embedding", "position"),
                (r"patch_embedding", "patch"),
            ]
        ),
        (r"model\.multi_modal_projector\.linear_[12]\.weight", "image", "proj"),
        (r"lm_head\.weight", "text", "head"),
    ]
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [
        (r"model\.vision_tower\.|model\.multi_modal_projector\.", "image"),
        (r"model\.language_model\.|lm_head\.", "text"),
    ]
    part_prefixes: Sequence[tuple[str, str]] = [
        (r"model\.multi_modal_projector\.", "projector"),
        (r"model\.language_model\.embed_tokens\.", "embeddings"),
        (r"model\.language_model\.", "language_model"),
    ]
    model: Any

    def __init__(
        self,
        model: LlavaForConditionalGeneration,
        tokenizer: AnyTokenizer,
        *,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        resize_mode: str = "shortest",
        interpolation: str = "bicubic",
        image_processor: dict[str, Any] | None = None,
        max_tokens: int = 64,
    ) -> None:
        if not isinstance(model, LlavaForConditionalGeneration):
            raise ValueError(
                f"{type(model).__name__} is not supported: give a LlavaForConditionalGeneration"
            )
        super().__init__(model)
        drop_unused_blocks(model)
        split_attention(model)
        text: Any = model.config.text_config
        vision: Any = model.config.vision_config
        tokens = (text.bos_token_id, text.eos_token_id, text.pad_token_id)
        if not all(isinstance(token, int) for token in tokens) or len(set(tokens)) < 3:
            raise ValueError(
                f"bos_token_id, eos_token_id, pad_token_id of the text_config are {tokens}: set "
                "each to a token of its own in config.json"
            )
        if not 0 <= min(tokens) <= max(tokens) < text.vocab_size:
            raise ValueError(
                f"bos_token_id, eos_token_id, pad_token_id of the text_config are {tokens} and it "
                f"has vocab_size={text.vocab_size}: correct config.json"
            )
        self._first, self._end, self._pad = tokens
        self._image_token: int = model.config.image_token_id
        self.max_tokens = max_tokens
        self.tokenizer = unlimited(tokenizer)
        check_padding(self.tokenizer, text.vocab_size)
        self._pixels = pixels_of(
            vision.image_size,
            image_processor,
            mean=mean,
            std=std,
            resize_mode=resize_mode,
            interpolation=interpolation,
        )
        strategy = model.config.vision_feature_select_strategy
        self._patches = (vision.image_size // vision.patch_size) ** 2 + (strategy == "full")

    def encode_image(self, pixels: Tensor) -> Tensor:
        """(B, D): mean over the projected patches."""
        with depth_as_it_is(self.model):
            features = self.model.model.get_image_features(pixel_values=pixels).pooler_output
        return torch.stack(list(features)).mean(dim=1)

    def encode_text(self, ids: Tensor) -> Tensor:
        """(B, D): mean over the last hidden states of a caption without an image."""
        valid = torch.ne(ids, self._pad)
        found = self.model.model.language_model(
            input_ids=ids, attention_mask=valid.long(), use_cache=False
        )
        return mean_pool(found.last_hidden_state, valid)

    def answer_logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """See `Generator`; every token is predicted except the first, (B, L − 1, V)."""
        ids = batch["text"]
        joined, valid = self._joined(ids)
        with depth_as_it_is(self.model):
            found = self.model(
                input_ids=joined,
                pixel_values=batch["image"],
                attention_mask=valid.long(),
                use_cache=False,  # blocks are run again on what they were called with
            )
        # The last patch predicts nothing: the caption's first token is known.
        logits = found.logits[:, self._patches : -1]
        targets = ids[:, 1:]
        return logits, targets.masked_fill(targets == self._pad, IGNORED)

    def _joined(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Places for the patches before each caption (B, P + L), and which tokens are valid."""
        places = ids.new_full((len(ids), self._patches), self._image_token)
        joined = torch.cat([places, ids], dim=1)
        return joined, torch.ne(joined, self._pad)

    def prepare(self, examples: Sequence[Example], *, answers: bool = True) -> Batch:
        """See `Generator`: `image` (B, 3, S, S), and the captions, `text` (B, L)."""
        for example in examples:
            if len(example.images) != 1 or example.prompt or example.sound is not None:
                raise ValueError(
                    "backbone=llava writes captions of one image each and is asked something else: "
                    "choose backbone=hf_vlm"
                )
        pixels = torch.stack([self.preprocess(example.images[0]) for example in examples])
        texts = [example.first_answer for example in examples] if answers else []
        return {"image": pixels, "text": self.tokenize(texts)} if answers else {"image": pixels}

    def generate(self, examples: Sequence[Example], *, max_tokens: int = 32) -> list[str]:
        """See `Generator`: a caption of each image."""
        device = next(self.parameters()).device
        pixels = self.prepare(examples, answers=False)["image"].to(device)
        return self.caption(pixels, max_tokens=max_tokens)

    @torch.no_grad()
    def caption(self, images: Tensor, *, max_tokens: int = 32) -> list[str]:
        """A caption for each image, without special tokens, of the most probable tokens.

        Args:
            images: (B, 3, S, S), preprocessed.
            max_tokens: that a caption has at most.
        """
        first = torch.full((len(images), 1), self._first, device=images.device)
        joined, valid = self._joined(first)
        cached = number_blocks(self.model.model.language_model)
        with depth_as_it_is(self.model):
            found = self.model.generate(
                input_ids=joined,
                pixel_values=images,
                attention_mask=valid.long(),
                generation_config=GenerationConfig(
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    use_cache=cached,
                    bos_token_id=self._first,
                    eos_token_id=self._end,
                    pad_token_id=self._pad,
                ),
            )
        return [self._text(row) for row in found[:, joined.shape[1] :].tolist()]

    def _text(self, ids: list[int]) -> str:
        """The words of a caption, up to its end token."""
        words = ids[: ids.index(self._end)] if self._end in ids else ids
        return to_text(self.tokenizer, words)

    def passes(self) -> list[Pass]:
        """The image encoder alone; image and caption together, where the language model reads."""

        def logits(batch: Batch) -> Tensor:
            return self.answer_logits(batch)[0]

        def valid(batch: Batch) -> Tensor:
            return self._joined(batch["text"])[1]

        return [
            self.tower_pass("image", timed=False),
            Pass("caption", logits, ("text",), valid, repeats=True),
        ]

    @property
    def logit_scale(self) -> Tensor:
        return torch.ones(())

    def preprocess(self, image: Any) -> Tensor:
        return self._pixels(image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        found = to_bare_ids(self.tokenizer, texts)
        for text, ids in zip(texts, found, strict=True):
            if self._image_token in ids:
                raise ValueError(
                    f"the caption {text[:60]!r} spells out the token that stands for an image: "
                    "take it out"
                )
        rows = [[self._first, *ids[: self.max_tokens - 2], self._end] for ids in found]
        length = max(map(len, rows), default=0)
        rows = [row + [self._pad] * (length - len(row)) for row in rows]
        return id_tensor(rows, texts, self.model.config.text_config.vocab_size)

    def valid_tokens(self, modality: str, inputs: Tensor) -> Tensor | None:
        return torch.ne(inputs, self._pad) if modality == "text" else None

    @property
    def spec(self) -> dict[str, Any]:
        config = self.model.config.to_diff_dict()
        return {"config": config, "max_tokens": self.max_tokens, **self._pixels.spec}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        config: Any = AutoConfig.for_model(**spec["config"])
        tokenizer = stored_tokenizer(assets)
        rest = {key: value for key, value in spec.items() if key != "config"}
        return cls(LlavaForConditionalGeneration(config), tokenizer, **rest)

    def write_settings(self, folder: Path) -> None:
        write_tokenizer(self.tokenizer, folder, pad_id=self._pad)
        self._pixels.save(folder)

    def save_assets(self, folder: Path) -> list[str]:
        return store_tokenizer(self.tokenizer, folder)


def from_pretrained(name_or_path: str, max_tokens: int = 64) -> HFGenerative:
    """A LLaVA from a folder or the model hub.

    Raises:
        ValueError: nothing loadable there, or a model of another kind.
    """
    local = stay_local(name_or_path)
    refuse_adapters_of(name_or_path, local)
    try:
        loaded: Any = AutoModelForImageTextToText.from_pretrained(
            name_or_path,
            dtype=torch.float32,
            local_files_only=local,
            output_loading_info=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # they are refused by name
        )
        tokenizer = load_tokenizer(name_or_path, local)
    # SafetensorError and what `tokenizers` raises on a broken file are bare Exceptions.
    except Exception as error:
        what = "generative image-text model"
        raise ValueError(not_loadable(name_or_path, what, local, error)) from error
    model, found = loaded
    check_loaded(named(name_or_path), model, found)
    size = model.config.vision_config.image_size
    settings = read_image_processor(name_or_path, model.config, size=size, local=local)
    options: dict[str, Any] = {"max_tokens": max_tokens, "image_processor": settings}
    with about(named(name_or_path)):
        backbone = HFGenerative(model, tokenizer, **options).eval()
        check_vocabulary(backbone.tokenizer, model.config.text_config.vocab_size)
    return backbone
