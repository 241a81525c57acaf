"""Image preprocessing that all image towers share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

# Radford et al. 2021, arXiv:2103.00020, as published with the code.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def image_transform(
    size: int, mean: Sequence[float], std: Sequence[float]
) -> Callable[[Any], Tensor]:
    """PIL image or uint8 tensor (3, H, W) → normalised float32 (3, size, size).

    Resized on the short side (bicubic, antialiased), then cut to the centre square.
    """
    return v2.Compose(
        [
            v2.ToImage(),
            v2.RGB(),
            v2.Resize(size, interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(size),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
            v2.Normalize(list(mean), list(std)),
        ]
    )
