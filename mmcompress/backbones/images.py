"""Image preprocessing that all image towers share."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from mmcompress.rgb import to_rgb

# Radford et al. 2021, arXiv:2103.00020, as published with the code.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

RESIZE_MODES = ("shortest", "squash")
RESAMPLING = {"bicubic": 3, "bilinear": 2}
"""Interpolation → the number that PIL and `preprocessor_config.json` give it."""


def image_transform(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    resize_mode: str = "shortest",
    interpolation: str = "bicubic",
) -> Callable[[Any], Tensor]:
    """PIL image or uint8 tensor (…, 3, H, W) → normalised float32 (…, 3, size, size).

    A PIL image is resized by PIL, a tensor by torch (antialiased): their pixels can differ by one
    level of 255.

    Args:
        mean, std: per RGB channel, of pixels in [0, 1].
        resize_mode: `shortest` resizes the short side and cuts to the centre square, `squash`
            ignores the aspect ratio.
        interpolation: `bicubic` or `bilinear`.
    Raises:
        ValueError: an unknown mode.
    """
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode={resize_mode!r} must be one of {', '.join(RESIZE_MODES)}")
    if interpolation not in RESAMPLING:
        raise ValueError(f"interpolation={interpolation!r} must be one of {', '.join(RESAMPLING)}")
    return v2.Compose(
        [
            to_rgb,
            v2.Resize(
                (size, size) if resize_mode == "squash" else size,
                interpolation=v2.InterpolationMode(interpolation),
                antialias=True,
            ),
            v2.CenterCrop(size),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
            v2.Normalize(list(mean), list(std)),
        ]
    )
