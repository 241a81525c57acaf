"""Pictures of any mode and bit depth as what image towers are trained on: RGB of 8 bits."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose pictures Pillow may give as 32-bit integers and that hold 16 bits at most."""

_WHITES = {"I": (255, 65535), "F": (1, 255, 65535)}
"""Values that white may have in a picture of 32 bits, which does not say its range."""


def to_rgb(picture: Any) -> Any:
    """A PIL image of mode RGB, or a tensor of three channels whose values have a known range.

    Transparency is dropped. 16 bits are scaled to the range of 8. A PIL image of 32-bit integers
    (`I`) or floats (`F`) does not say what white is: the smallest of 255 and 65535 (of floats 1,
    too) that no pixel exceeds.

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


def with_alpha(picture: Any) -> Image.Image:
    """A PIL image of mode RGB, or RGBA where something shines through; ranges as in `to_rgb`.

    Raises:
        ValueError: it is no PIL image, or its values do not fit any range.
    """
    if not isinstance(picture, Image.Image):
        raise ValueError(f"a {type(picture).__name__} is no picture: give a PIL image or a tensor")
    mode = picture.mode
    if mode.startswith("I;16"):
        return _of_values(np.asarray(picture), 65535)
    if mode in _WHITES:
        return _of_values(np.asarray(picture), _white_of(picture))
    if mode in ("La", "RGBa"):  # colors times alpha, which Pillow divides by alpha alone
        picture = picture.convert({"La": "LA", "RGBa": "RGBA"}[mode])
    if "A" not in picture.getbands() and picture.info.get("transparency") is None:
        return picture.convert("RGB")
    layered = picture.convert("RGBA")
    lowest, _ = layered.getchannel("A").getextrema()
    return layered.convert("RGB") if lowest == 255 else layered


def drop_alpha(picture: Any) -> Any:
    """RGB in place of an RGBA image, the colors as they are; anything else stays."""
    layered = isinstance(picture, Image.Image) and picture.mode == "RGBA"
    return picture.convert("RGB") if layered else picture


def on_white(picture: Image.Image) -> Image.Image:
    """A PIL image of mode RGB, white where one of any mode lets something shine through."""
    layered = with_alpha(picture)
    if layered.mode == "RGB":
        return layered
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def _white_of(picture: Image.Image) -> int:
    if picture.format in _SIXTEEN_BITS and picture.mode == "I":
        return 65535
    values, whites = np.asarray(picture), _WHITES[picture.mode]
    low, high = float(values.min()), float(values.max())  # NaN and infinity stay what they are
    if not 0 <= low <= high <= whites[-1]:
        kind = "32-bit integers" if picture.mode == "I" else "floats"
        raise ValueError(
            f"it holds {kind} from {low:g} to {high:g}, not within 0 to {whites[-1]}: save it with "
            "8 or 16 bits"
        )
    return next(white for white in whites if high <= white)


def _of_values(values: np.ndarray, white: int) -> Image.Image:
    levels = np.rint(values.astype(np.float64) * (255 / white)).astype(np.uint8)
    return Image.fromarray(levels).convert("RGB")


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
