"""Models of open_clip whose towers are open_clip's own transformers."""

import difflib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import open_clip
import torch
from huggingface_hub import hf_hub_download
from torch import Tensor, nn
from typing_extensions import Self

from mmcompress.backbones.attention import split_attention
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hub import hub_reachable
from mmcompress.backbones.images import CLIP_MEAN, CLIP_STD, image_transform

WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")

_LAYERS = [
    (r"transformer\.resblocks\.\d+\.attn\.q\.weight", "attn.q"),
    (r"transformer\.resblocks\.\d+\.attn\.k\.weight", "attn.k"),
    (r"transformer\.resblocks\.\d+\.attn\.v\.weight", "attn.v"),
    (r"transformer\.resblocks\.\d+\.attn\.out\.weight", "attn.out"),
    (r"transformer\.resblocks\.\d+\.mlp\.c_fc\.weight", "mlp.up"),
    (r"transformer\.resblocks\.\d+\.mlp\.c_proj\.weight", "mlp.down"),
    (r"positional_embedding", "position"),
]
_IMAGE = [
    (r"conv1\.weight", "patch"),
    (r"attn_pool\w*\.attn\.q\.weight", "attn.q"),
    (r"attn_pool\w*\.attn\.k\.weight", "attn.k"),
    (r"attn_pool\w*\.attn\.v\.weight", "attn.v"),
    (r"attn_pool\w*\.attn\.out\.weight", "attn.out"),
    (r"attn_pool\w*\.query", "query"),
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
        self.name, self.config = name, config
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
        config, preprocessing = _read_config(name)
        _check(name, config)
        weights: Path | None = None
        tags = open_clip.list_pretrained_tags_by_model(name)
        if pretrained is not None and pretrained in tags:
            tag = open_clip.get_pretrained_cfg(name, pretrained)
            if tag.get("quick_gelu"):
                config["quick_gelu"] = True
            preprocessing = _preprocessing(tag)
            weights = _download(name, pretrained, tag["hf_hub"].rstrip("/"))
        elif pretrained is not None:
            weights = Path(pretrained)
            if not weights.is_file():
                raise ValueError(
                    f"backbone.pretrained={pretrained!r} is neither a file nor a tag of {name}; "
                    f"its tags: {', '.join(tags) or 'none'}; null gives random weights"
                )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = _build(config).eval()
        if weights is not None:
            _load(model, name, weights)
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
        return {"name": self.name, "config": self.config, **self.preprocessing}

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        _check(spec["name"], spec["config"])  # before anything is built from it
        return cls(_build(spec["config"]), **spec)


def _preprocessing(stored: dict[str, Any]) -> dict[str, Any]:
    keys = ("mean", "std", "resize_mode", "interpolation")
    return {key: stored[key] for key in keys if key in stored}


def _read_config(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Model config and preprocessing of a name or `local-dir:` folder."""
    local = name.removeprefix("local-dir:")
    if local == name:
        config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
        if config is None:
            close = difflib.get_close_matches(name, open_clip.list_models(), n=5, cutoff=0.4)
            raise ValueError(
                f"backbone.name={name!r} is no model of open_clip; close to it: "
                f"{', '.join(close) or 'none'} (all: open_clip.list_models())"
            )
        return config, {}
    try:
        stored = json.loads((Path(local) / "open_clip_config.json").read_text("utf-8"))
        return stored["model_cfg"], _preprocessing(stored.get("preprocess_cfg", {}))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"backbone.name={name!r}: the folder needs an open_clip_config.json that holds a "
            f"model_cfg ({type(error).__name__}: {error})"
        ) from error


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
        "token outputs": vision.get("output_tokens", False) or text.get("output_tokens", False),
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


def _build(config: dict[str, Any]) -> open_clip.CLIP | open_clip.CustomTextCLIP:
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    custom = config.get("custom_text", False)
    return (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**arguments)


def _download(name: str, tag: str, repository: str) -> Path:
    reachable = hub_reachable()
    cause: OSError | None = None
    for file in WEIGHT_FILES:
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


def _load(model: nn.Module, name: str, weights: Path) -> None:
    try:
        open_clip.load_checkpoint(model, str(weights))
    # What torch raises on a file of something else cannot be listed.
    except Exception as error:
        reason = (str(error).strip() or "no message").splitlines()[0]
        raise ValueError(
            f"backbone.pretrained={str(weights)!r} does not hold the weights of {name} "
            f"({type(error).__name__}: {reason})"
        ) from error
