"""Models of open_clip: its own transformers, ResNets, timm and Hugging Face towers, CoCa."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from open_clip.coca_model import CoCa
from open_clip.hf_model import HFTextEncoder
from open_clip.tokenizer import HFTokenizer
from torch import Tensor

from mmcompress.backbones.attention import split_attention
from mmcompress.backbones.base import Row
from mmcompress.backbones.bert_blocks import split_blocks
from mmcompress.backbones.capabilities import Encoder
from mmcompress.backbones.empty import without_weights
from mmcompress.backbones.fused import split_fused
from mmcompress.backbones.hf.tokenizers import check_ids
from mmcompress.backbones.images import CLIP_MEAN, CLIP_STD, image_transform, transform_settings
from mmcompress.backbones.native import fill, native_state, tower_sizes
from mmcompress.backbones.open_clip.build import (
    Model,
    Tokenizer,
    build_model,
    build_tokenizer,
    find_text_config,
    find_tokenizer,
    vocabulary,
)
from mmcompress.backbones.open_clip.hub import (
    copies_weights,
    find_weights,
    load_weights,
    preprocessing_of,
    read_config,
    save_weights,
    warn_of_unread_weights,
)
from mmcompress.backbones.open_clip.tokenizers import tokenizer_settings
from mmcompress.backbones.passes import Batch, Pass

_ATTENTION = [(rf"attn\.{part}_proj\.weight", f"attn.{part}") for part in ("q", "k", "v", "out")]
_BLOCK = [*_ATTENTION, (r"mlp\.c_fc\.weight", "mlp.up"), (r"mlp\.c_proj\.weight", "mlp.down")]
_OWN = [
    *((rf"(?:transformer\.)?(?:resblocks|cross_attn)\.\d+\.{row}", role) for row, role in _BLOCK),
    (r"positional_embedding", "position"),
]
_RESNET_POOL = [
    *((rf"attnpool\.{part}_proj\.weight", f"attn.{part}") for part in ("q", "k", "v", "out")),
    (r"attnpool\.positional_embedding", "position"),
]
_IMAGE = [
    (r"conv1\.weight", "patch"),
    *((rf"attn_pool(?:_contrastive)?\.{row}", role) for row, role in _ATTENTION),
    (r"attn_pool(?:_contrastive)?\.query", "query"),
    (r"proj", "proj"),
]
_TIMM = [
    *((rf"(?:.*\.)?qkv\.{part}_proj\.weight", f"attn.{part}") for part in ("q", "k", "v")),
    *((rf"(?:.*\.)?attn\.{part}_proj\.weight", f"attn.{part}") for part in ("q", "k", "v")),
    *((rf"attn_pool\.kv\.{part}_proj\.weight", f"attn.{part}") for part in ("k", "v")),
    (r"attn_pool\.q\.weight", "attn.q"),
    (r"attn_pool\.latent", "query"),
    (r"(?:.*\.)?(?:attn|attn_pool|token_mixer)\.proj\.weight", "attn.out"),
    (r"(?:.*\.)?mlp\.(?:fc1|fc1_g|fc1_x|w1|w2)\.weight", "mlp.up"),
    (r"(?:.*\.)?mlp\.(?:fc2|w3)\.weight", "mlp.down"),
    (r"patch_embed\.(?:.*\.)?(?:proj|conv)\.weight", "patch"),
    (r"(?:.*\.)?(?:pos_embed|relative_position_bias_table)", "position"),
    (r"head\.(?:fc\.)?weight", "proj"),
]
_TEXT = [
    (r"token_embedding\.weight", "embed"),
    (r"text_projection\.weight", "proj"),
    (r"text_projection", "proj"),
]
_HF = [
    *((rf".*\.self_attn\.{part}_proj\.weight", f"attn.{part}") for part in ("q", "k", "v", "out")),
    *((rf".*\.SelfAttention\.{part}\.weight", f"attn.{part}") for part in ("q", "k", "v")),
    (r".*\.SelfAttention\.o\.weight", "attn.out"),
    (r".*\.relative_attention_bias\.weight", "position"),
    (r".*\.(?:mlp\.)?fc1\.weight", "mlp.up"),
    (r".*\.(?:mlp\.)?fc2\.weight", "mlp.down"),
    (r".*\.DenseReluDense\.(?:wi|wi_0|wi_1)\.weight", "mlp.up"),
    (r".*\.DenseReluDense\.wo\.weight", "mlp.down"),
    (r".*\.(?:position|token_type)_embeddings\.weight", "position"),
]


def _rows(prefix: str, modality: str, patterns: Sequence[tuple[str, str]]) -> list[Row]:
    return [(rf"{prefix}{pattern}", modality, role) for pattern, role in patterns]


class OpenClip(Encoder):
    """Adapter for `open_clip.CLIP`, `CustomTextCLIP` and `CoCa`.

    Fused attention is split into `nn.Linear`s (`mmcompress.backbones.attention`, `.fused`) at once.

    Args:
        model: the dense model; it is edited in place.
        name: what the model is called in open_clip.
        config: open_clip's model config, from which the same architecture can be built.
        tokenizer: that of the config; open_clip's own when None.
        mean, std: per RGB channel, of pixels in [0, 1].
        resize_mode, interpolation, fill_color: of `image_transform`; the interpolation `random` of
            open_clip is bicubic outside training.
    Raises:
        ValueError: the config asks for something that the adapter cannot handle.
    """

    adapter = "open_clip"
    library = "open_clip"
    reads_alpha = True
    # In the plain CLIP class the text tower lies at the root, elsewhere under `text.`.
    roles: Sequence[Row] = [
        *_rows(r"visual\.", "image", [*_OWN, *_RESNET_POOL, *_IMAGE]),
        *_rows(r"visual\.trunk\.", "image", _TIMM),
        (r"visual\.head\.(?:mlp\.fc1|mlp\.fc2|proj)\.weight", "image", "proj"),
        *_rows(r"(?:text\.)?", "text", [*_OWN, *_TEXT]),
        *_rows(r"text\.transformer", "text", _HF),
        (r"text\.proj(?:\.\d+)?\.weight", "text", "proj"),
        *_rows(r"text_decoder\.", "shared", [*_OWN, *_TEXT]),
    ]
    tower_prefixes: ClassVar[Sequence[tuple[str, str]]] = [
        (r"visual\.", "image"),
        (r"text\.|transformer\.|token_embedding\.|positional_embedding", "text"),
        (r"ln_final\.|text_projection|attn_mask", "text"),
    ]
    model: Model

    def __init__(
        self,
        model: Model,
        *,
        name: str,
        config: dict[str, Any],
        tokenizer: Tokenizer | None = None,
        mean: Sequence[float] = CLIP_MEAN,
        std: Sequence[float] = CLIP_STD,
        resize_mode: str = "shortest",
        interpolation: str = "bicubic",
        fill_color: int = 0,
    ) -> None:
        _check(name, config)
        super().__init__(model)
        split_attention(model)
        split_fused(model)
        split_blocks(model)
        self.name, self.config = name, copy.deepcopy(config)
        self.preprocessing: dict[str, Any] = {
            "mean": list(mean),
            "std": list(std),
            "resize_mode": resize_mode,
            "interpolation": interpolation,
            "fill_color": fill_color,
        }
        self._transform = image_transform(**self._transform_settings)
        self._tokenizer = tokenizer or build_tokenizer(name, config, None)
        embeddings = _text_tower(model).vocab_size
        if vocabulary(self._tokenizer) > embeddings:
            raise ValueError(
                f"backbone.name={name!r} has {embeddings} token embeddings for the "
                f"{vocabulary(self._tokenizer)} tokens of its {type(self._tokenizer).__name__}; "
                "set text_cfg.vocab_size in its config"
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
        text_config, tokenizer = find_text_config(name, config), find_tokenizer(name, config)
        weights = None if pretrained is None else find_weights(name, pretrained)
        if weights is None:
            warn_of_unread_weights(name)
        if weights is not None and weights.tag:
            preprocessing = preprocessing_of(weights.tag)
            if weights.tag.get("quick_gelu"):
                config["quick_gelu"] = True
        empty = weights is not None and not copies_weights(weights.path)
        with torch.random.fork_rng(devices=[]), without_weights() if empty else nullcontext():
            torch.manual_seed(seed)
            model = build_model(name, config, text_config).eval()
        if weights is not None:
            load_weights(model, name, weights.path)
        return cls(model, name=name, config=config, tokenizer=tokenizer, **preprocessing)

    def encode_image(self, pixels: Tensor) -> Tensor:
        # A pooler of one query (CoCa's cascade) keeps a dimension for it.
        return self.model.encode_image(pixels).flatten(start_dim=1)

    def encode_text(self, ids: Tensor) -> Tensor:
        return self.model.encode_text(ids)

    @property
    def logit_scale(self) -> Tensor:
        return self.model.logit_scale.exp().squeeze()

    def preprocess(self, image: Any) -> Tensor:
        return self._transform(image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        ids = self._tokenizer(list(texts))
        check_ids(ids, texts, _text_tower(self.model).vocab_size)
        return ids

    def valid_tokens(self, modality: str, inputs: Tensor) -> Tensor | None:
        if modality != "text":
            return None
        tower, text = _text_tower(self.model), self.config["text_cfg"]
        if isinstance(tower, HFTextEncoder):
            return torch.ne(inputs, tower.config.pad_token_id)
        if text.get("embed_cls", False):
            return torch.ne(inputs, text.get("pad_id", 0))
        pool = text.get("pool_type", "argmax")
        if text.get("no_causal_mask", False) or pool not in ("argmax", "eos"):
            return None
        if pool == "argmax":
            end = inputs.argmax(dim=1, keepdim=True)
        else:
            end = (inputs == text.get("eos_id", 2)).int().argmax(dim=1, keepdim=True)
        return torch.arange(inputs.shape[1], device=inputs.device) <= end

    def passes(self) -> list[Pass]:
        """CoCa's decoder reads both towers: it has a pass of its own."""
        if not isinstance(self.model, CoCa):
            return super().passes()
        towers = [self.tower_pass(modality) for modality in ("image", "text")]
        decoder = Pass("decoder", self._decode, ("shared",), repeats=True, timed=False)
        return [*towers, decoder]

    def _decode(self, batch: Batch) -> Tensor:
        """What CoCa expects of each token of the captions: (B, L, V)."""
        return self.model(batch["image"], batch["text"])["logits"]

    @property
    def spec(self) -> dict[str, Any]:
        tower = _text_tower(self.model)
        text = tower.config.to_diff_dict() if isinstance(tower, HFTextEncoder) else None
        spec = {"name": self.name, "config": self.config, "text_config": text}
        return copy.deepcopy(spec | self.preprocessing)

    @classmethod
    def from_spec(cls, spec: dict[str, Any], assets: Path) -> Self:
        name, config = spec["name"], spec["config"]
        _check(name, config)  # before anything is built from it
        source = str(assets) if config["text_cfg"].get("hf_tokenizer_name") else None
        tokenizer = build_tokenizer(name, config, source)
        rest = {key: value for key, value in spec.items() if key != "text_config"}
        return cls(build_model(name, config, spec.get("text_config")), tokenizer=tokenizer, **rest)

    def write_native(self, folder: Path) -> None:
        """A folder that open_clip loads as `local-dir:…`."""
        config = copy.deepcopy(self.config)
        for key, modality in (("vision_cfg", "image"), ("text_cfg", "text")):
            tower, sizes = config[key], tower_sizes(self, modality)
            if "width" not in tower or not isinstance(tower.get("layers"), int) or sizes is None:
                continue  # a tower of timm or transformers, or a ResNet
            tower["layers"] = sizes.blocks
            if sizes.mlp != int(tower["width"] * tower.get("mlp_ratio", 4.0)):
                tower["mlp_ratio"] = (sizes.mlp + 0.5) / tower["width"]  # it is rounded down
        model = build_model(self.name, config, self.spec["text_config"])
        fill(model, native_state(self.model), "open_clip")
        save_weights(model, config, self.preprocessing, folder)
        self.save_assets(folder)

    @property
    def _transform_settings(self) -> dict[str, Any]:
        """Arguments of `image_transform`."""
        size = self.config["vision_cfg"].get("image_size", 224)
        kernel = self.preprocessing["interpolation"]
        kernel = "bicubic" if kernel == "random" else kernel
        return self.preprocessing | {"size": size, "interpolation": kernel}

    def feeding(self, folder: Path) -> dict[str, dict[str, Any]]:
        words = _text_tower(self.model).vocab_size
        text = tokenizer_settings(self._tokenizer, folder, embeddings=words)
        return {"image": transform_settings(**self._transform_settings), "text": text}

    def save_assets(self, folder: Path) -> list[str]:
        if not isinstance(self._tokenizer, HFTokenizer):
            return []
        saved = self._tokenizer.tokenizer.save_pretrained(folder)
        return [Path(file).name for file in saved if Path(file).is_file()]


def unsupported(config: dict[str, Any]) -> list[str]:
    """The parts of a model config that the adapter cannot see through, in words."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    tokens = any(
        tower.get("output_tokens", False) or tower.get("pool_type") == "none"
        for tower in (vision, text)
    )
    parts = {
        "token outputs": tokens and "multimodal_cfg" not in config,
        "a timm tower of the model hub": ":" in (vision.get("timm_model_name") or ""),
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
            "not support; use a model without, such as ViT-B-32, RN50 or ViT-B-16-SigLIP"
        )


def _text_tower(model: Model) -> Any:
    """What holds the vocabulary: the model itself in the plain CLIP class."""
    return getattr(model, "text", model)
