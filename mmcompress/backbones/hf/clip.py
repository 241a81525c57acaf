"""CLIP models in Hugging Face format (`transformers.CLIPModel`)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from mmcompress.backbones.base import Row
from mmcompress.backbones.capabilities import Encoder
from mmcompress.backbones.complete import check_loaded
from mmcompress.backbones.hf.files import (
    FromTransformers,
    about,
    named,
    not_loadable,
    refuse_adapters_of,
    stay_local,
)
from mmcompress.backbones.hf.processors import pixels_of, read_image_processor
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
    id_tensor,
    prepared,
    to_ids,
)
from mmcompress.backbones.images import CLIP_MEAN, CLIP_STD


class HFClip(FromTransformers, Encoder):
    """Adapter for any `CLIPModel`.

    Its attention already is four `nn.Linear`s, so nothing needs to be rewritten.

    Args:
        model: the dense model.
        tokenizer: maps text to ids, beginning and end tokens included.
        image_processor: settings of transformers' image processor.
        mean, std, resize_mode, interpolation: of `image_transform`, where there are no such
            settings.
    """

    adapter = "hf_clip"
    reads_alpha = True
    roles: Sequence[Row] = [
        (rf"{tower}.*{name}\.weight", modality, role)
        for tower, modality in [("vision_model", "image"), ("text_model", "text")]
        for name, role in [
            (r"self_attn\.q_proj", "attn.q"),
            (r"self_attn\.k_proj", "attn.k"),
            (r"self_attn\.v_proj", "attn.v"),
            (r"self_attn\.out_proj", "attn.out"),
            (r"mlp\.fc1", "mlp.up"),
            (r"mlp\.fc2", "mlp.down"),
            (r"token_embedding", "embed"),
            (r"position_embedding", "position"),
            (r"patch_embedding", "patch"),
        ]
    ] + [
        (r"visual_projection\.weight", "image", "proj"),
        (r"text_projection\.weight", "text", "proj"),
    ]
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [
        (r"vision_model\.|visual_projection\.", "image"),
        (r"text_model\.|text_projection\.", "text"),
    ]
    model: CLIPModel

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: AnyTokenizer,
        *,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        resize_mode: str = "shortest",
        interpolation: str = "bicubic",
        image_processor: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(model)
        text, vision = _tower_configs(model.config)
        self._end_id = _token_id(text.eos_token_id, "eos_token_id")
        pad_id = self._end_id if text.pad_token_id is None else text.pad_token_id
        self.tokenizer = prepared(
            tokenizer, max_tokens=text.max_position_embeddings, pad_id=pad_id, to_end=False
        )
        check_padding(self.tokenizer, text.vocab_size)
        if not isinstance(vision.image_size, int):
            raise ValueError(
                f"image_size={vision.image_size} of the vision_config must be one number: images "
                "that are not square are not supported"
            )
        self._pixels = pixels_of(
            vision.image_size,
            image_processor,
            mean=mean,
            std=std,
            resize_mode=resize_mode,
            interpolation=interpolation,
        )

    @classmethod
    def from_pretrained(cls, name_or_path: str) -> Self:
        """A `CLIPModel` from a folder or the model hub.

        Raises:
            ValueError: nothing loadable there.
        """
        local = stay_local(name_or_path)
        refuse_adapters_of(name_or_path, local)
        try:
            loaded: Any = CLIPModel.from_pretrained(
                name_or_path,
                dtype=torch.float32,
                local_files_only=local,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are refused by name
            )
            tokenizer = load_tokenizer(name_or_path, local)
        # SafetensorError and what `tokenizers` raises on a broken file are bare Exceptions.
        except Exception as error:
            raise ValueError(not_loadable(name_or_path, "CLIPModel", local, error)) from error
        model, found = loaded
        check_loaded(named(name_or_path), model, found)
        size = model.config.vision_config.image_size
        settings = read_image_processor(name_or_path, model.config, size=size, local=local)
        with about(named(name_or_path)):
            backbone = cls(model, tokenizer, image_processor=settings)
            check_vocabulary(backbone.tokenizer, model.config.text_config.vocab_size)
            backbone._check_end()
        return backbone

    def _check_end(self) -> None:
        """Refuse texts without the token that the tower reads out at: it would read the first."""
        ends = to_ids(self.tokenizer, [""])[0]
        if self._end_id != 2 and self._end_id not in ends:  # see `valid_tokens` for 2
            raise ValueError(
                f"eos_token_id={self._end_id} of the text_config is not among the tokens {ends} "
                "that the tokenizer puts around a text: correct config.json, or give the tokenizer "
                "that the model was trained with"
            )

    @classmethod
    def mini(cls) -> Self:
        """The embedded model of 5 M parameters: `backbones/mini/README.md` describes it."""
        return cls.from_pretrained(str(Path(__file__).parents[1] / "mini"))

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values=pixels).pooler_output

    def encode_text(self, ids: Tensor) -> Tensor:
        # The tower is causal and reads out at the end token: padding after it changes nothing.
        return self.model.get_text_features(input_ids=ids).pooler_output

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale.exp()

    def preprocess(self, image: Any) -> Tensor:
        return self._pixels(image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        rows = to_ids(self.tokenizer, texts)
        return id_tensor(rows, texts, _tower_configs(self.model.config)[0].vocab_size)

    def valid_tokens(self, modality: str, inputs: Tensor) -> Tensor | None:
        if modality != "text":
            return None
        # Up to the end token that the tower reads out at; padding may be that same token. Old
        # configurations say 2 and mean the largest id (transformers, CLIPTextTransformer).
        marked = inputs if self._end_id == 2 else torch.eq(inputs, self._end_id).int()
        end = marked.argmax(dim=1, keepdim=True)
        return torch.arange(inputs.shape[1], device=inputs.device) <= end

    @property
    def spec(self) -> dict[str, Any]:
        config = self.model.config.to_diff_dict()
        return {"config": config, **self._pixels.spec}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        config = CLIPConfig.from_dict(spec["config"])
        tokenizer = stored_tokenizer(assets)
        rest = {key: value for key, value in spec.items() if key != "config"}
        return cls(CLIPModel(config), tokenizer, **rest)

    def write_settings(self, folder: Path) -> None:
        write_tokenizer(self.tokenizer, folder)
        self._pixels.save(folder)

    def feeding(self, folder: Path) -> dict[str, dict[str, Any]]:
        config: Any = self.model.config.text_config
        text = tokenizer_settings(self.tokenizer, folder, embeddings=config.vocab_size)
        return {"image": self._pixels.feeding(), "text": text}

    def save_assets(self, folder: Path) -> list[str]:
        return store_tokenizer(self.tokenizer, folder)


def _tower_configs(config: CLIPConfig) -> tuple[CLIPTextConfig, CLIPVisionConfig]:
    text, vision = config.text_config, config.vision_config
    assert isinstance(text, CLIPTextConfig)
    assert isinstance(vision, CLIPVisionConfig)
    return text, vision


def _token_id(value: int | list[int] | None, key: str) -> int:
    if not isinstance(value, int):
        raise ValueError(f"{key}={value} of the text_config must be one token id")
    return value
