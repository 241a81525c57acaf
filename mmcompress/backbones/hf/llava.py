"""What the parts of a LLaVA must know of the blocks that are there."""

from typing import Any

from transformers import LlavaForConditionalGeneration

from mmcompress.modules.anatomy import Stack, attentions_of, find_stacks


def drop_unused_blocks(model: LlavaForConditionalGeneration) -> None:
    """Take out, in place, the blocks of the image encoder behind the one whose features are read.

    LLaVA reads the last but one. Left in, they would be stored for nothing, and where others are
    removed the features would be those of another block.
    """
    config: Any = model.config
    layer, blocks = config.vision_feature_layer, image_blocks(model)
    if blocks is None or not isinstance(layer, int) or layer == 0:
        return
    used = layer if layer > 0 else len(blocks) + 1 + layer
    del blocks[used:]
    config.vision_config.num_hidden_layers, config.vision_feature_layer = used, -1


def number_blocks(language_model: Any) -> bool:
    """Tell each block its place, by which it finds its keys and values in the cache.

    Blocks before it may have been removed.

    Returns:
        Whether there can be a cache: not where one block stands in several places.
    """
    blocks = [block for _, stack in find_stacks(language_model) for block in stack]
    if len(set(map(id, blocks))) < len(blocks):
        return False
    for index, block in enumerate(blocks):
        for _, attention in attentions_of(block):
            attention.layer_idx = index  # type: ignore[assignment]
    return True


def image_blocks(model: Any) -> Stack | None:
    """Those of CLIP's and SigLIP's encoders, the last of whose features no norm follows."""
    tower = model.model.vision_tower
    if tower.config.model_type not in ("clip_vision_model", "siglip_vision_model"):
        return None
    return next((stack for _, stack in find_stacks(tower)), None)
