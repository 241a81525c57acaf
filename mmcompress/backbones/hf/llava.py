"""What the parts of a LLaVA must know of the blocks that are there."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mmcompress.modules.anatomy import Stack, attentions_of, find_stacks

TOWERS = ("vision_tower", "vision_model", "visual")
"""What architectures call their image encoder."""


def drop_unused_blocks(model: Any) -> None:
    """Take out, in place, the blocks of the image encoder behind the one whose features are read.

    Nothing happens to a model that reads the last. LLaVA reads the last but one. Left in, they
    would be stored for nothing, and where others are removed the features would be those of another
    block.
    """
    config: Any = model.config
    layer, blocks = getattr(config, "vision_feature_layer", None), image_blocks(model)
    if blocks is None or not isinstance(layer, int) or layer == 0:
        return
    used = layer if layer > 0 else len(blocks) + 1 + layer
    del blocks[used:]
    config.vision_config.num_hidden_layers, config.vision_feature_layer = used, -1


@contextmanager
def depth_as_it_is(model: Any) -> Iterator[None]:
    """Let the config of the image encoder say how many blocks there are: some may be gone.

    transformers finds the layer that gives the features by it. The config that artifacts keep
    is the dense model's. Where the encoder has several lists of blocks nothing is changed.
    """
    config, stacks = model.config.vision_config, _image_stacks(model)
    if len(stacks) != 1:
        yield
        return
    dense = config.num_hidden_layers
    config.num_hidden_layers = len(stacks[0])
    try:
        yield
    finally:
        config.num_hidden_layers = dense


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
    if model.config.vision_config.model_type not in ("clip_vision_model", "siglip_vision_model"):
        return None
    return next(iter(_image_stacks(model)), None)


def _image_stacks(model: Any) -> list[Stack]:
    """The lists of blocks of the image encoder, whatever the architecture calls that."""
    towers = (getattr(model.model, name, None) for name in TOWERS)
    return [stack for tower in towers if tower is not None for _, stack in find_stacks(tower)]
