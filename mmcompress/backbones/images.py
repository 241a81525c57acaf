"""Image preprocessing that all image towers share."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from mmcompress.functional.pictures import drop_alpha, with_alpha
from mmcompress.functional.rgb import to_rgb

# Radford et al. 2021, arXiv:2103.00020, as published with the code.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

RESIZE_MODES = ("shortest", "squash", "longest")
RESAMPLING = {"bicubic": 3, "bilinear": 2}
"""Interpolation → the number that PIL and `preprocessor_config.json` give it."""


def image_transform(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    resize_mode: str = "shortest",
    interpolation: str = "bicubic",
    fill_color: int = 0,
) -> Callable[[Any], Tensor]:
    """PIL image or uint8 tensor (…, 3, H, W) → normalized float32 (…, 3, size, size).

    A PIL image is resized by PIL, a tensor by torch (antialiased): their pixels can differ by one
    level of 255. Transparency is dropped after resizing, as open_clip does it.

    Args:
        mean, std: per RGB channel, of pixels in [0, 1].
        resize_mode: `shortest` resizes the short side and cuts to the center square, `squash`
            ignores the aspect ratio, `longest` resizes the long side and fills up to a square.
        interpolation: `bicubic` or `bilinear`.
        fill_color: 0 to 255, of what `longest` fills up.
    Raises:
        ValueError: an unknown mode.
    """
    if resize_mode not in RESIZE_MODES:
        raise ValueError(f"resize_mode={resize_mode!r} must be one of {', '.join(RESIZE_MODES)}")
    if interpolation not in RESAMPLING:
        raise ValueError(f"interpolation={interpolation!r} must be one of {', '.join(RESAMPLING)}")
    if not isinstance(fill_color, int) or not 0 <= fill_color <= 255:
        raise ValueError(f"fill_color={fill_color!r} must be a whole number in 0 to 255")
    kernel = v2.InterpolationMode(interpolation)
    if resize_mode == "longest":
        fitted: list[Any] = [
            partial(_resize_longest, size=size, kernel=kernel),
            partial(_pad_to_square, size=size, fill=fill_color),
        ]
    else:
        target = (size, size) if resize_mode == "squash" else size
        fitted = [v2.Resize(target, interpolation=kernel, antialias=True), v2.CenterCrop(size)]
    return v2.Compose(
        [
            _layers,
            *fitted,
            drop_alpha,
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.ToPureTensor(),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def transform_settings(
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    resize_mode: str = "shortest",
    interpolation: str = "bicubic",
    fill_color: int = 0,
    transparency: str = "drop_last",
) -> dict[str, Any]:
    """What `image_transform` does to a PIL image, as `mmcompress.inputs.pictures` takes it.

    Args:
        transparency: of that module.
    """
    square = {"height": size, "width": size}
    kinds = {"shortest": {"shortest_edge": size}, "longest": {"longest_edge": size}}
    resize = {"size": kinds.get(resize_mode, square), "kernel": interpolation, "like": "pillow"}
    fit: dict[str, dict[str, Any]] = {
        "shortest": {"op": "crop", "half": "even"},
        "longest": {"op": "pad", "fill": fill_color},
    }
    return {
        "transparency": transparency,
        "steps": [
            {"op": "resize"} | resize,
            *([fit[resize_mode] | square] if resize_mode in fit else []),
            {"op": "rescale", "factor": 1 / 255},
            {"op": "normalize", "mean": list(mean), "std": list(std)},
        ],
    }


def _layers(picture: Any) -> Any:
    """Colors are resized together with their transparency, and it is dropped after that."""
    return to_rgb(picture) if torch.is_tensor(picture) else with_alpha(picture)


def _resize_longest(picture: Any, size: int, kernel: v2.InterpolationMode) -> Any:
    """As open_clip does it, except that a side never vanishes."""
    height, width = v2.functional.get_size(picture)
    ratio = max(height, width) / size
    sides = [max(round(height / ratio), 1), max(round(width / ratio), 1)]
    return v2.functional.resize(picture, sides, interpolation=kernel, antialias=True)


def _pad_to_square(picture: Any, size: int, fill: int) -> Any:
    height, width = v2.functional.get_size(picture)
    left, top = (size - width) // 2, (size - height) // 2
    padding = [left, top, size - width - left, size - height - top]
    if torch.is_tensor(picture) and picture.is_floating_point():
        fill = fill / 255  # type: ignore[assignment]
    return v2.functional.pad(picture, padding, fill=fill)
