"""Pictures, of Pillow or as tensors, as what image towers are trained on: RGB of 8 bits."""

from typing import Any

import torch
from torch import Tensor

from mmcompress.functional.pictures import with_alpha


def to_rgb(picture: Any) -> Any:
    """A PIL image of mode RGB, or a tensor of three channels whose values have a known range.

    Transparency is dropped. 16 bits are scaled to the range of 8; see `with_alpha`.

    Args:
        picture: PIL image of any mode; tensor (..., 1 or 3, H, W), uint8, uint16, or floats in
            [0, 1].
    Returns:
        PIL image, or tensor (..., 3, H, W) in uint8, or in its own type if that is a float.
    Raises:
        ValueError: it is neither, or its values do not fit any range.

    Example:
        >>> to_rgb(torch.full((3, 1, 1), 65535, dtype=torch.uint16)).flatten()
        tensor([255, 255, 255], dtype=torch.uint8)
    """
    return (
        _of_tensor(picture) if isinstance(picture, Tensor) else with_alpha(picture).convert("RGB")
    )


def _of_tensor(picture: Tensor) -> Tensor:
    if picture.ndim < 3 or picture.shape[-3] not in (1, 3):
        raise ValueError(
            f"a tensor of shape {tuple(picture.shape)} is no picture: give (..., 3, height, width)"
        )
    if picture.dtype == torch.uint16:
        picture = (picture.to(torch.float64) * (255 / 65535)).round().to(torch.uint8)
    elif picture.is_floating_point():
        low, high = picture.aminmax()
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"a tensor of {picture.dtype} holds {low:g} to {high:g}: give floats in [0, 1], or "
                "uint8"
            )
    elif picture.dtype != torch.uint8:
        raise ValueError(
            f"a tensor of {picture.dtype} is no picture: give uint8, uint16 or floats in [0, 1]"
        )
    return picture.expand(*picture.shape[:-3], 3, *picture.shape[-2:])
