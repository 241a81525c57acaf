"""Pictures of Pillow of any mode and bit depth as what image towers are trained on: 8 bits, RGB."""

from typing import Any

import numpy as np
from PIL import Image

_SIXTEEN_BITS = ("PNG", "PPM")
"""Formats whose pictures Pillow may give as 32-bit integers and that hold 16 bits at most."""

_WHITES = {"I": (255, 65535), "F": (1, 255, 65535)}
"""Values that white may have in a picture of 32 bits, which does not say its range."""


def with_alpha(picture: Any) -> Image.Image:
    """A PIL image of 8 bits, of mode RGB, or RGBA where something shines through.

    16 bits are scaled to the range of 8. A PIL image of 32-bit integers (`I`) or floats (`F`) does
    not say what white is: the smallest of 255 and 65535 (of floats 1, too) that no pixel exceeds.

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
