"""The parts of a multimodal model, across its towers: which one a tensor belongs to."""

PARTS = (
    "vision_tower",
    "audio_tower",
    "text_tower",
    "projector",
    "language_model",
    "embeddings",
    "head",
    "shared",
)
"""In the order of reports; `shared` is what belongs to no tower."""

BY_ROLE = {"embed": "embeddings", "proj": "projector", "head": "head"}
BY_MODALITY = {"image": "vision_tower", "audio": "audio_tower", "text": "text_tower"}


def usual_part(modality: str, role: str) -> str:
    """The part that follows from tower and role, where a model does not say another.

    Args:
        modality: `image`, `text`, `audio` or `shared`.
        role: of a compressible weight; anything else of another tensor.

    Example:
        >>> usual_part("text", "embed"), usual_part("image", "mlp.up"), usual_part("shared", "")
        ('embeddings', 'vision_tower', 'shared')
    """
    return BY_ROLE.get(role) or BY_MODALITY.get(modality, "shared")


def in_order(part: str) -> tuple[int, str]:
    """A key to sort parts by."""
    return (PARTS.index(part) if part in PARTS else len(PARTS), part)
