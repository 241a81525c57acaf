"""Two-tower models of transformers: SigLIP, Chinese CLIP, AltCLIP, dual encoders, CLAP.

`transformers.CLIPModel` has an adapter of its own, `hf_clip`; `from_pretrained` finds both.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel

from mmcompress.backbones.attention import split_attention
from mmcompress.backbones.base import Backbone, Row
from mmcompress.backbones.bert_blocks import split_blocks
from mmcompress.backbones.capabilities import Encoder
from mmcompress.backbones.complete import check_loaded
from mmcompress.backbones.fused import split_fused
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.files import (
    FromTransformers,
    about,
    named,
    not_loadable,
    refuse_adapters_of,
    stay_local,
)
from mmcompress.backbones.hf.kinds import image_size_of, kind_of, max_tokens
from mmcompress.backbones.hf.processors import Pixels, pixels_of, read_image_processor
from mmcompress.backbones.hf.siglip2 import patches_of, unpacked
from mmcompress.backbones.hf.sounds import Sounds, read_sounds
from mmcompress.backbones.hf.tokenizer_files import (
    load_tokenizer,
    store_tokenizer,
    stored_tokenizer,
    tokenizer_settings,
    write_tokenizer,
)
from mmcompress.backbones.hf.tokenizers import (
    AnyTokenizer,
    check_padding,
    check_vocabulary,
    highest_id,
    id_tensor,
    padding_id,
    prepared,
    to_ids,
)
from mmcompress.backbones.images import CLIP_MEAN, CLIP_STD

_ROLES = [
    (r"(?:q_proj|self\.query)\.weight", "attn.q"),
    (r"(?:k_proj|self\.key)\.weight", "attn.k"),
    (r"(?:v_proj|self\.value)\.weight", "attn.v"),
    (r"(?:out_proj|o_proj|attention\.output\.dense)\.weight", "attn.out"),
    (r"(?:mlp\.fc1|intermediate\.dense)\.weight", "mlp.up"),
    (r"(?:mlp\.fc2|output\.dense)\.weight", "mlp.down"),
    (r"(?:token_embedding|word_embeddings)\.weight", "embed"),
    (r"(?:position_embeddings?|token_type_embeddings)(?:\.weight)?", "position"),
    (r"relative_position_bias_table", "position"),
    (r"(?:patch_embedding|patch_embeddings\.projection|patch_embed\.proj)\.weight", "patch"),
    (r"head\.probe", "query"),
]
_TOWERS = [
    ("image", r"vision_model\.", r"visual_projection\.(?:\w+\.)?weight"),
    ("audio", r"audio_model\.", r"audio_projection\.(?:\w+\.)?weight"),
    ("text", r"text_model\.", r"text_projection\.(?:\w+\.)?weight|text_model\.head\.weight"),
]


class HF(FromTransformers, Encoder):
    """Adapter for the models of `KINDS`.

    Fused attention is split into `nn.Linear`s, BERT's blocks are put together anew, at once.

    Args:
        model: the dense model; it is edited in place.
        tokenizer: maps text to ids, special tokens included.
        image_processor: settings of transformers' image processor.
        mean, std, resize_mode, interpolation: of `image_transform`, where there are no such
            settings.
        features: settings of transformers' feature extractor, for audio.
    Raises:
        ValueError: no model of `KINDS`, or images that are not square.
    """

    adapter = "hf"
    reads_alpha = True
    roles: Sequence[Row] = [
        *((pattern, modality, "proj") for modality, _, pattern in _TOWERS),
        *(
            (rf"{tower}(?:.*\.)?{row}", modality, role)
            for modality, tower, _ in _TOWERS
            for row, role in _ROLES
        ),
    ]
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [
        (r"vision_model\.|visual_projection\.", "image"),
        (r"audio_model\.|audio_projection\.|logit_scale_a", "audio"),
        (r"text_model\.|text_projection\.|logit_scale_t", "text"),
    ]
    model: Any

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: AnyTokenizer,
        *,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        resize_mode: str = "shortest",
        interpolation: str = "bicubic",
        image_processor: dict[str, Any] | None = None,
        features: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model)
        self.kind = kind_of(model.config)
        self.modalities = self.kind.modalities
        split_attention(model)
        split_fused(model)
        split_blocks(model)
        text = model.config.text_config
        if text.pad_token_id is None:
            raise ValueError("the text_config has no pad_token_id: set it in config.json")
        self.tokenizer = prepared(
            tokenizer,
            max_tokens=max_tokens(text),
            pad_id=text.pad_token_id,
            to_end=self.kind.sees_padding,
        )
        self._pad_id = padding_id(self.tokenizer)
        check_padding(self.tokenizer, text.vocab_size)
        self._pixels: Pixels | None = None
        self._sounds: Sounds | None = None
        if "image" in self.modalities:
            self._pixels = pixels_of(
                image_size_of(model.config.vision_config),
                image_processor,
                mean=mean,
                std=std,
                resize_mode=resize_mode,
                interpolation=interpolation,
            )
        else:
            self._sounds = Sounds(features, model.config.audio_config)
            self._extractor = self._sounds.extractor
            self.sampling_rate, self.window = self._sounds.sampling_rate, self._sounds.window

    def encode_image(self, pixels: Tensor) -> Tensor:
        if pixels.ndim == 3:
            inputs = unpacked(pixels)
        elif self.model.config.model_type == "siglip2":
            inputs = patches_of(pixels, self.model.config.vision_config.patch_size)
        else:
            inputs = {"pixel_values": pixels}
        return self.model.get_image_features(**inputs).pooler_output

    def encode_audio(self, features: Tensor) -> Tensor:
        # Fusion: transformers takes a sound that is alone in its batch for a longer one, whatever
        # its length. Each is heard as if alone, so that no other sound changes its embedding.
        # `len` would be a number, and fix the batch of a traced graph.
        longer = torch.ones(features.shape[0], 1, dtype=torch.bool, device=features.device)
        return self.model.get_audio_features(features, is_longer=longer).pooler_output

    def encode_text(self, ids: Tensor) -> Tensor:
        valid = self.valid_tokens("text", ids)
        mask = None if valid is None else valid.long()
        return self.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output

    @property
    def logit_scale(self) -> Tensor:
        scale = getattr(self.model, "logit_scale", None)
        return (self.model.logit_scale_a if scale is None else scale).exp().squeeze()

    def preprocess(self, image: Any) -> Tensor:
        if self._pixels is None:
            return super().preprocess(image)
        return self._pixels(image)

    def preprocess_audio(self, waveforms: Sequence[Tensor]) -> Tensor:
        if self._sounds is None:
            return super().preprocess_audio(waveforms)
        return self._sounds(waveforms)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        rows = to_ids(self.tokenizer, texts)
        return id_tensor(rows, texts, self.model.config.text_config.vocab_size)

    def valid_tokens(self, modality: str, inputs: Tensor) -> Tensor | None:
        if modality == "image" and inputs.ndim == 3:
            return unpacked(inputs)["pixel_attention_mask"].bool()
        if modality != "text" or self.kind.sees_padding:
            return None
        return torch.ne(inputs, self._pad_id)

    @property
    def spec(self) -> dict[str, Any]:
        config = self.model.config.to_diff_dict()
        audio = {} if self._sounds is None else {"features": self._sounds.settings}
        pixels = {} if self._pixels is None else self._pixels.spec
        return {"config": config, **pixels, **audio}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        config = AutoConfig.for_model(**spec["config"])
        tokenizer = stored_tokenizer(assets)
        rest = {key: value for key, value in spec.items() if key != "config"}
        return cls(kind_of(config).model(config), tokenizer, **rest)

    def write_settings(self, folder: Path) -> None:
        write_tokenizer(self.tokenizer, folder)
        if self._pixels is not None:
            self._pixels.save(folder)
        if self._sounds is not None:
            self._sounds.save(folder)

    def feeding(self, folder: Path) -> dict[str, dict[str, Any]]:
        words = self.model.config.text_config.vocab_size
        text = tokenizer_settings(self.tokenizer, folder, embeddings=words)
        if self._sounds is not None:
            return {"audio": self._sounds.feeding(folder), "text": text}
        assert self._pixels is not None
        return {"image": self._pixels.feeding(), "text": text}

    def save_assets(self, folder: Path) -> list[str]:
        return store_tokenizer(self.tokenizer, folder)


def from_pretrained(name_or_path: str) -> Backbone:
    """A two-tower model from a folder or the model hub.

    Raises:
        ValueError: nothing loadable there, or a model of another kind.
    """
    local = stay_local(name_or_path)
    refuse_adapters_of(name_or_path, local)
    try:
        config = AutoConfig.from_pretrained(
            name_or_path, local_files_only=local, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ValueError(not_loadable(name_or_path, "two-tower model", local, error)) from error
    if config.model_type == "clip":
        return HFClip.from_pretrained(name_or_path)
    kind = kind_of(config)
    try:
        loaded: Any = kind.model.from_pretrained(
            name_or_path,
            dtype=torch.float32,
            local_files_only=local,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused by name
        )
        tokenizer = load_tokenizer(name_or_path, local)
    # SafetensorError and what `tokenizers` raises on a broken file are bare Exceptions.
    except Exception as error:
        what = kind.model.__name__
        raise ValueError(not_loadable(name_or_path, what, local, error)) from error
    model, found = loaded
    check_loaded(named(name_or_path), model, found)
    settings: dict[str, Any] = {}
    if "image" in kind.modalities:
        size = image_size_of(config.vision_config)
        processor = read_image_processor(name_or_path, config, size=size, local=local)
        settings["image_processor"] = processor
    with about(named(name_or_path)):
        if "audio" in kind.modalities:
            settings["features"] = read_sounds(name_or_path, local)
        backbone = HF(model, tokenizer, **settings).eval()
        check_vocabulary(backbone.tokenizer, config.text_config.vocab_size)
    return backbone


def untrained(
    config: dict[str, Any], *, features: dict[str, Any] | None = None, seed: int = 0
) -> HF:
    """A model with random weights and the tokenizer of the packaged model, to train from scratch.

    Args:
        config: of transformers; its `model_type` is one of `KINDS`. Beginning, end and padding
            tokens are 0, 1 and 2.
        features: settings of transformers' feature extractor, for audio.
        seed: of the weights.
    Raises:
        ValueError: a model of another kind, or fewer token embeddings than tokens.
    """
    tokenizer = stored_tokenizer(Path(__file__).parents[1] / "mini")
    built = AutoConfig.for_model(**config)
    kind, tokens = kind_of(built), highest_id(tokenizer) + 1
    if built.text_config.vocab_size < tokens:
        raise ValueError(
            f"text_config.vocab_size must be at least {tokens}, those of the tokenizer"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.model(built)
    return HF(model, tokenizer, features=features).eval()
