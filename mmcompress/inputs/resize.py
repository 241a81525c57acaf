"""Resizing as PyTorch does it to tensors of 8 bits, in numpy.

Where preprocessing goes through tensors, its pixels are these. Pillow rounds its weights more
finely, and its pixels differ by one level here and there.
"""

from functools import lru_cache

import numpy as np

_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def resize(pixels: np.ndarray, height: int, width: int, kernel: str) -> np.ndarray:
    """Pixels (H, W, C) uint8 at another size, as `torch.nn.functional.interpolate` gives them.

    Antialiased; width first, then height; both passes round to whole levels.

    Args:
        kernel: `bilinear` or `bicubic` (a = −0.5, as everywhere with antialiasing).
    """
    if width != pixels.shape[1]:
        weights, bits = _weights(pixels.shape[1], width, kernel)
        pixels = _applied(weights, pixels.transpose(1, 0, 2), bits).transpose(1, 0, 2)
    if height != pixels.shape[0]:
        weights, bits = _weights(pixels.shape[0], height, kernel)
        pixels = _applied(weights, pixels, bits)
    return pixels


def _applied(weights: np.ndarray, pixels: np.ndarray, bits: int) -> np.ndarray:
    """Sums over the first axis, rounded and cut to 0 to 255.

    Args:
        weights: (out, in), whole numbers of 16 bits as float64: all sums of them are exact.
        pixels: (in, …) uint8.
    """
    flat = pixels.reshape(len(pixels), -1)
    sums = weights @ flat.astype(np.float64)
    levels = (sums.astype(np.int64) + (1 << (bits - 1))) >> bits
    return np.clip(levels, 0, 255).astype(np.uint8).reshape(-1, *pixels.shape[1:])


@lru_cache(maxsize=64)
def _weights(size: int, wanted: int, kernel: str) -> tuple[np.ndarray, int]:
    """How much each pixel of a line counts in each of the new ones, and of how many bits 1 is."""
    scale = size / wanted
    support = _SUPPORT[kernel] * max(scale, 1.0)
    centers = scale * (np.arange(wanted) + 0.5)
    first = np.maximum((centers - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centers + support + 0.5).astype(np.int64), size)
    places = np.arange(size)
    distances = (places[None] - centers[:, None] + 0.5) / max(scale, 1.0)
    inside = (places >= first[:, None]) & (places < last[:, None])
    weights = np.where(inside, _FILTERS[kernel](np.abs(distances)), 0.0)
    weights /= weights.sum(axis=1, keepdims=True)
    largest, bits = weights.max(), 0
    while bits < 22 and int(0.5 + largest * (1 << (bits + 1))) < 1 << 15:
        bits += 1
    whole = weights * (1 << bits)
    return np.trunc(whole + np.where(whole < 0, -0.5, 0.5)), bits


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.maximum(1.0 - x, 0.0)


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys 1981, with a = −0.5."""
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))


_FILTERS = {"bilinear": _triangle, "bicubic": _cubic}
