"""Models of open_clip whose towers are open_clip's own transformers."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import open_clip
import torch
from torch import Tensor
from typing_extensions import Self

from mmcompress.backbones.attention import split_attention
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.images import CLIP_MEAN, CLIP_STD, image_transform
from mmcompress.backbones.open_clip_hub import (
    find_weights,
    load_weights,
    preprocessing_of,
    read_config,
)

_ATTENTION = [(rf"attn\.{part}_proj\.weight", f"attn.{part}") for part in ("q", "k", "v", "out")]
_BLOCK = [*_ATTENTION, (r"mlp\.c_fc\.weight", "mlp.up"), (r"mlp\.c_proj\.weight", "mlp.down")]
_LAYERS = [
    *((rf"transformer\.resblocks\.\d+\.{pattern}", role) for pattern, role in _BLOCK),
    (r"positional_embedding", "position"),
]
_IMAGE = [
    (r"conv1\.weight", "patch"),
    *((rf"attn_pool\.{pattern}", role) for pattern, role in _ATTENTION),
    (r"attn_pool\.query", "query"),
    (r"proj", "proj"),
]
_TEXT = [
    (r"token_embedding\.weight", "embed"),
    (r"text_projection\.weight", "proj"),
    (r"text_projection", "proj"),
]


class OpenClip(Backbone):
    """Adapter for `open_clip.CLIP` and `CustomTextCLIP` with open_clip's own two transformers.

    Fused attention is split into `nn.Linear`s (`mmcompress.backbones.attention`) at once.

    Args:
        model: the dense model; it is edited in place.
        name: what the model is called in open_clip.
        config: open_clip's model config, from which the same architecture can be built.
        mean, std: per RGB channel, of pixels in [0, 1].
        resize_mode, interpolation: of `image_transform`.
    Raises:
        ValueError: the config asks for a tower or tokenizer that the adapter cannot handle.
    """

    adapter = "open_clip"
    # In the plain CLIP class the text tower lies at the root, in CustomTextCLIP under `text.`.
    roles: ClassVar[Sequence[tuple[str, str, str]]] = [
        *((rf"visual\.{pattern}", "image", role) for pattern, role in [*_LAYERS, *_IMAGE]),
        *((rf"(?:text\.)?{pattern}", "text", role) for pattern, role in [*_LAYERS, *_TEXT]),
    ]
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [
        (r"visual\.", "image"),
        (r"text\.|transformer\.|token_embedding\.|positional_embedding", "text"),
        (r"ln_final\.|text_projection|attn_mask", "text"),
    ]
    model: open_clip.CLIP | open_clip.CustomTextCLIP

    def __init__(
        self,
        model: open_clip.CLIP | open_clip.CustomTextCLIP,
        *,
        name: str,
        config: dict[str, Any],
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        resize_mode: str = "shortest",
        interpolation: str = "bicubic",
    ) -> None:
        _check(name, config)
        super().__init__(model)
        split_attention(model)
        self.name, self.config = name, copy.deepcopy(config)
        self.preprocessing: dict[str, Any] = {
            "mean": list(mean),
            "std": list(std),
            "resize_mode": resize_mode,
            "interpolation": interpolation,
        }
        size = config["vision_cfg"].get("image_size", 224)
        self._transform = image_transform(size, **self.preprocessing)
        text = config["text_cfg"]
        self._pool = text.get("pool_type", "argmax")
        self._causal = not text.get("no_causal_mask", False)
        self._tokenizer = open_clip.SimpleTokenizer(
            context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
        )
        if self._tokenizer.vocab_size > model.vocab_size:
            raise ValueError(
                f"backbone.name={name!r} has {model.vocab_size} token embeddings for the "
                f"{self._tokenizer.vocab_size} tokens of open_clip's SimpleTokenizer; set "
                "text_cfg.vocab_size in its config"
            )

    @classmethod
    def from_pretrained(cls, name: str, pretrained: str | None = None, seed: int = 0) -> Self:
        """A model by its open_clip name.

        Args:
            name: of `open_clip.list_models()`, or `local-dir:PATH` of a folder with an
                `open_clip_config.json`.
            pretrained: a tag of that model, the path of a weights file, or None for random
                weights. A tag trained with QuickGELU gives a model with QuickGELU, whatever the
                name says.
            seed: of the random weights.
        Raises:
            ValueError: unknown name or tag, weights that cannot be had or do not fit, or a model
                that the adapter cannot handle.
        """
        config, preprocessing = read_config(name)
        _check(name, config)
        weights = None if pretrained is None else find_weights(name, pretrained)
        if weights is not None and weights.tag:
            preprocessing = preprocessing_of(weights.tag)
            if weights.tag.get("quick_gelu"):
                config["quick_gelu"] = True
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _build(name, config).eval()
        if weights is not None:
            load_weights(model, name, weights.path)
        return cls(model, name=name, config=config, **preprocessing)

    def encode_image(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels)

    def encode_text(self, ids: Tensor) -> Tensor:
        return self.model.encode_text(ids)

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale.exp().squeeze()

    def preprocess(self, image: Any) -> Tensor:
        return self._transform(image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        return self._tokenizer(list(texts))

    def valid_tokens(self, modality: str, inputs: Tensor) -> Tensor | None:
        if modality != "text" or not self._causal or self._pool not in ("argmax", "eos"):
            return None
        if self._pool == "argmax":
            end = inputs.argmax(dim=1, keepdim=True)
        else:
            end_id = self.config["text_cfg"].get("eos_id", 2)
            end = (inputs == end_id).int().argmax(dim=1, keepdim=True)
        return torch.arange(inputs.shape[1], device=inputs.device) <= end

    @property
    def spec(self) -> dict[str, Any]:
        return copy.deepcopy({"name": self.name, "config": self.config, **self.preprocessing})

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        _check(spec["name"], spec["config"])  # before anything is built from it
        return cls(_build(spec["name"], spec["config"]), **spec)


def unsupported(config: dict[str, Any]) -> list[str]:
    """The parts of a model config that the adapter cannot see through, in words."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    parts = {
        "a timm image tower": "timm_model_name" in vision,
        "a ResNet image tower": isinstance(vision.get("layers"), (list, tuple)),
        "a Hugging Face text tower": "hf_model_name" in text,
        "a Hugging Face tokenizer": "hf_tokenizer_name" in text,
        "a captioning decoder": "multimodal_cfg" in config,
        "a class token in the text tower": text.get("embed_cls", False),
        "token outputs": any(
            tower.get("output_tokens", False) or tower.get("pool_type") == "none"
            for tower in (vision, text)
        ),
        "a second attentional pooler": isinstance(vision.get("attentional_pool"), str),
        "images that are not square": not isinstance(vision.get("image_size", 224), int),
        "scaled cosine attention": any(
            tower.get("scaled_cosine_attn", False) for tower in (vision, text)
        ),
    }
    return [part for part, present in parts.items() if present]


def _check(name: str, config: dict[str, Any]) -> None:
    parts = unsupported(config)
    if parts:
        raise ValueError(
            f"backbone.name={name!r} has {' and '.join(parts)}, which the open_clip adapter does "
            "not support; use a model with open_clip's own transformers, such as ViT-B-32, "
            "ViT-B-16 or ViT-L-14"
        )


def _build(name: str, config: dict[str, Any]) -> open_clip.CLIP | open_clip.CustomTextCLIP:
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    custom = config.get("custom_text", False)
    try:
        return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**arguments)
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(
            f"backbone.name={name!r}: open_clip cannot build a model from its config "
            f"({type(error).__name__}: {error}); correct open_clip_config.json"
        ) from error
