"""Which two-tower models of transformers there are, and what each reads."""

import math
from dataclasses import dataclass
from typing import Any

from transformers import (
    AltCLIPModel,
    ChineseCLIPModel,
    ClapModel,
    PreTrainedModel,
    Siglip2Model,
    SiglipModel,
    VisionTextDualEncoderModel,
)


@dataclass(frozen=True)
class Kind:
    """What the models of one `model_type` have in common.

    Attributes:
        model: the class.
        modalities: of its two towers.
        sees_padding: the text tower was trained on texts padded to the end, padding and all.
    """

    model: type[PreTrainedModel]
    modalities: tuple[str, str] = ("image", "text")
    sees_padding: bool = False


KINDS = {
    "siglip": Kind(SiglipModel, sees_padding=True),
    "siglip2": Kind(Siglip2Model, sees_padding=True),
    "chinese_clip": Kind(ChineseCLIPModel),
    "altclip": Kind(AltCLIPModel),
    "vision-text-dual-encoder": Kind(VisionTextDualEncoderModel),
    "clap": Kind(ClapModel, ("audio", "text")),
}
"""By `model_type`."""


ROBERTAS = ("roberta", "xlm-roberta", "camembert", "altclip_text_model", "clap_text_model")
"""Text encoders that count positions from behind the padding index."""


def kind_of(config: Any) -> Kind:
    """Which of `KINDS` a config is of.

    Raises:
        ValueError: of none.
    """
    if config.model_type not in KINDS:
        raise ValueError(
            f"model_type={config.model_type!r} of the config is not supported: give a model of one "
            f"of the types clip, {', '.join(KINDS)}, or write an adapter (examples/)"
        )
    return KINDS[config.model_type]


def max_tokens(text: Any) -> int:
    offset = text.pad_token_id + 1 if text.model_type in ROBERTAS else 0
    return text.max_position_embeddings - offset


def image_size_of(vision: Any) -> int:
    """Side of the square that the tower reads, in pixels."""
    if vision.model_type == "siglip2_vision_model":
        return math.isqrt(vision.num_patches) * vision.patch_size
    size = getattr(vision, "image_size", None)
    if not isinstance(size, int):
        raise ValueError(
            f"image_size={size} of the vision_config must be one number: images that "
            "are not square are not supported"
        )
    return size
