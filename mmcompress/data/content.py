"""Which items and captions are equal: no model can tell them apart."""

import hashlib
from typing import Any

import numpy as np
from PIL import Image

from mmcompress.backbones.examples import Waveform


def content_id(value: Any) -> int:
    """Equal for equal content, whatever file it comes from.

    Of the item as it was decoded, so that it does not depend on the model that is scored.

    Args:
        value: an image (PIL or a tensor), a `Waveform` or a text.
    Returns:
        A digest of 63 bits: among a million items two different ones share it with probability
        10⁻⁷.
    """
    digest = hashlib.blake2b(digest_size=8)
    if isinstance(value, str):
        digest.update(value.encode("utf-8", "surrogatepass"))
    else:
        rate, samples = (value.rate, value.samples) if isinstance(value, Waveform) else (0, value)
        array = np.ascontiguousarray(samples)
        # Gray and palette images are arrays of one shape.
        mode = value.mode if isinstance(value, Image.Image) else ""
        digest.update(f"{rate} {mode} {array.dtype.str} {array.shape} ".encode())
        digest.update(array.data)
    return int.from_bytes(digest.digest(), "big") >> 1
