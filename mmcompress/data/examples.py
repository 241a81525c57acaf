"""From an item of a data set to what a generative model is asked."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torchvision.transforms.v2.functional import to_pil_image

from mmcompress.backbones.examples import Example, Waveform
from mmcompress.data.items import Item
from mmcompress.functional.pictures import on_white
from mmcompress.functional.rgb import to_rgb

EXAMPLES = "examples"
"""Key, in the batches of `PairData.example_dataloader`, of their list."""


def example_of(item: Item, answers: Sequence[str], sound: Waveform | None = None) -> Example:
    """What is asked of an item.

    Args:
        item: with what there is of `image`, which may be a list of several, `kind`, and `prompt`,
            which a caption or a transcript needs not.
        answers: the texts that count as right, the first one to be trained on.
        sound: what is to be heard of the item's.
    """
    image = item.get("image", [])
    return Example(
        prompt=item.get("prompt", ""),
        answers=tuple(answers),
        images=tuple(as_pil(one) for one in (image if isinstance(image, list) else [image])),
        sound=sound,
        kind=item.get("kind", ""),
    )


def as_pil(image: Any) -> Image.Image:
    """RGB, on white where something shines through."""
    return to_pil_image(to_rgb(image)) if torch.is_tensor(image) else on_white(image)
