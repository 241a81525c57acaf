"""Pictures to the pixels that an image tower reads, by steps that are JSON.

`docs/onnx.md` specifies the steps; a backbone says which it takes (`Backbone.feeding`).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmcompress.functional.pictures import drop_alpha, on_white, with_alpha
from mmcompress.inputs.files import read_image
from mmcompress.inputs.resize import resize

KERNELS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

TRANSPARENCY: dict[str, Callable[[Any], Image.Image]] = {
    "white": on_white,
    "drop": lambda picture: drop_alpha(with_alpha(picture)),
    "drop_last": with_alpha,
}
"""What becomes of a picture that something shines through: white behind it, or its colors as they
are, at once or after it is resized."""


class Pictures:
    """Pixels of pictures.

    Args:
        settings: `transparency`, of `TRANSPARENCY`, and `steps`, each with its `op`.

    Example:
        >>> steps = [{"op": "rescale", "factor": 1 / 255}]
        >>> pixels = Pictures({"transparency": "white", "steps": steps})
        >>> pixels([Image.new("RGB", (2, 2), "red")])[0, :, 0, 0]
        array([1., 0., 0.], dtype=float32)
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._flatten = TRANSPARENCY[settings["transparency"]]
        self._steps = [
            partial(_STEPS[step["op"]], **{k: v for k, v in step.items() if k != "op"})
            for step in settings["steps"]
        ]

    def __call__(self, pictures: Sequence[Image.Image]) -> np.ndarray:
        """Float32 (B, 3, height, width) of pictures that `as_picture` takes."""
        return np.stack([self._pixels(as_picture(picture)) for picture in pictures])

    def _pixels(self, picture: Image.Image) -> np.ndarray:
        levels = np.asarray(self._flatten(picture))  # H W, and 3 or 4
        for step in self._steps:
            levels = step(levels)
        return np.ascontiguousarray(_colors(levels).astype(np.float32).transpose(2, 0, 1))


def as_picture(value: Any) -> Image.Image:
    """A picture of Pillow.

    Args:
        value: one, of any mode, a path, or an array (1 or 3, H, W) of uint8, uint16 or floats in
            [0, 1].
    Raises:
        ValueError: it is none of them, or cannot be read.
    """
    if isinstance(value, str | Path):
        return read_image(Path(value))
    if isinstance(value, Image.Image):
        return with_alpha(value)
    levels = np.asarray(value)
    if levels.ndim != 3 or levels.shape[0] not in (1, 3):
        kind = type(value).__name__
        raise ValueError(f"a {kind} is no picture: give a path, a PIL image or (3, height, width)")
    if levels.dtype == np.uint16:
        levels = np.rint(levels * (255 / 65535))
    elif levels.dtype.kind == "f":
        low, high = levels.min(), levels.max()
        if not 0 <= low <= high <= 1:
            raise ValueError(
                f"an array of {levels.dtype} holds {low:g} to {high:g}: give floats in [0, 1], or "
                "uint8"
            )
        levels = np.rint(levels * 255)
    elif levels.dtype != np.uint8:
        raise ValueError(
            f"an array of {levels.dtype} is no picture: give uint8, uint16 or floats in [0, 1]"
        )
    rows = np.broadcast_to(levels, (3, *levels.shape[1:])).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(rows, dtype=np.uint8))


def _colors(levels: np.ndarray) -> np.ndarray:
    """Without transparency."""
    return levels[..., :3]


def _resize(levels: np.ndarray, *, size: Mapping[str, int], kernel: str, like: str) -> np.ndarray:
    height, width = _target(levels.shape[0], levels.shape[1], size)
    if levels.shape[:2] == (height, width):
        return levels
    if like == "tensor":
        return resize(levels, height, width, kernel)
    return np.asarray(Image.fromarray(levels).resize((width, height), KERNELS[kernel]))


def _target(height: int, width: int, size: Mapping[str, int]) -> tuple[int, int]:
    if "shortest_edge" in size:
        wanted = size["shortest_edge"]
        long = int(wanted * max(height, width) / min(height, width))
        return (wanted, long) if height <= width else (long, wanted)
    if "longest_edge" in size:
        ratio = max(height, width) / size["longest_edge"]
        return max(round(height / ratio), 1), max(round(width / ratio), 1)
    return size["height"], size["width"]


def _pad(levels: np.ndarray, *, height: int, width: int, fill: int) -> np.ndarray:
    """In the middle; of two sides the second gets the odd pixel."""
    y, x = height - levels.shape[0], width - levels.shape[1]
    sides = [(y // 2, y - y // 2), (x // 2, x - x // 2), (0, 0)]
    return np.pad(levels, sides, constant_values=fill)


def _crop(levels: np.ndarray, *, height: int, width: int, half: str) -> np.ndarray:
    """The middle; what is smaller gets black sides first.

    Args:
        half: where an odd pixel leaves two middles: the `first`, or that at an `even` place.
    """
    tall, wide = max(levels.shape[0], height), max(levels.shape[1], width)
    levels = _pad(levels, height=tall, width=wide, fill=0)
    middle: Callable[[float], int] = round if half == "even" else int
    y, x = middle((tall - height) / 2), middle((wide - width) / 2)
    return levels[y : y + height, x : x + width]


def _gray(levels: np.ndarray) -> np.ndarray:
    """One channel: 0.2989 R + 0.587 G + 0.114 B, whole levels, rounded down."""
    shares = np.array([0.2989, 0.587, 0.114], np.float32)
    return (_colors(levels).astype(np.float32) @ shares).astype(np.uint8)[..., None]


def _rescale(levels: np.ndarray, *, factor: float) -> np.ndarray:
    return _colors(levels).astype(np.float32) * np.float32(factor)


def _normalize(levels: np.ndarray, *, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    values = _colors(levels).astype(np.float32)
    return (values - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)


_STEPS: dict[str, Callable[..., np.ndarray]] = {
    "resize": _resize,
    "pad": _pad,
    "crop": _crop,
    "gray": _gray,
    "rescale": _rescale,
    "normalize": _normalize,
}
