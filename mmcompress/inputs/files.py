"""From the bytes of a file to a picture or a sound, as Pillow and numpy have them."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from mmcompress.functional.pictures import with_alpha

_PICTURES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".avif", ".heic", ".heif"),
    *(".bmp", ".dib", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    *(".jp2", ".j2k", ".jpx", ".tga", ".qoi", ".ico", ".icns", ".dds", ".pcx", ".sgi", ".psd"),
)
"""Photographs, drawings and measurements; no films, documents or vector graphics."""


def _read_here() -> tuple[str, ...]:
    """Those of them that this installation of Pillow opens."""
    known = Image.registered_extensions()
    missing = {kind.upper() for kind in ("avif", "webp") if not features.check(kind)}
    return tuple(s for s in _PICTURES if known.get(s, "") in Image.OPEN.keys() - missing)


IMAGE_SUFFIXES = _read_here()
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".au")
"""Of libsndfile, without those that no microphone writes."""


class Unreadable(ValueError):
    """A file that holds no image or sound, or only a part of one.

    Attributes:
        reason: what is wrong, in words that other items share: they are counted by it. What
            stands before a bracket in the message, unless it is given.
    """

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message.partition(" (")[0]
        self.item = ""

    def within(self, place: str) -> "Unreadable":
        """The same, said of a file."""
        return Unreadable(f"{place}: {self}", reason=self.reason)

    def of(self, item: str) -> "Unreadable":
        """The same, said of an item."""
        found = Unreadable(str(self), reason=self.reason)
        found.item = item
        return found

    def __str__(self) -> str:
        return f"{self.item} left out, {self.args[0]}" if self.item else str(self.args[0])


DAMAGE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)
"""What Pillow's decoders raise on damaged files."""


def read_image(source: bytes | Path) -> Image.Image:
    """An image of 8 bits, RGB, or RGBA where it is transparent (`with_alpha`).

    Raises:
        Unreadable: no image, a damaged one, or one whose values have no known range.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return with_alpha(image)
    except DAMAGE as error:
        raise unreadable("image", error) from error


def read_sound(source: bytes | Path) -> tuple[np.ndarray, int]:
    """Samples (n,), float32 in [−1, 1], the mean of all channels; and how many a second has.

    Raises:
        Unreadable: no sound, or a damaged file.
        ModuleNotFoundError: the extra `audio` is not installed.
    """
    soundfile = import_audio("soundfile")
    try:
        data = source if isinstance(source, bytes) else source.read_bytes()
        channels, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)  # n C
    except (OSError, RuntimeError) as error:
        raise unreadable("sound", error) from error
    if len(channels) == 0:
        raise Unreadable("no readable sound (it is empty)")
    samples = channels.mean(axis=1)
    bad = int((~np.isfinite(samples)).sum())
    if bad:
        raise Unreadable(f"no readable sound ({bad} of its samples are NaN or infinite)")
    return samples, rate


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """At another rate, by soxr's band-limited resampler: one sample at least.

    Args:
        samples: (n,), floats.
        rate, wanted: per second, of what is given and of what comes out.
    """
    if rate == wanted:
        return samples
    soxr = import_audio("soxr")
    # Fewer samples than make up one at the new rate would leave none.
    missing = math.ceil(rate / wanted) - len(samples)
    return soxr.resample(np.pad(samples, (0, max(missing, 0))), rate, wanted)


def import_audio(name: str) -> Any:
    """One of the libraries of the extra `audio`.

    Raises:
        ModuleNotFoundError: says how to install it.
    """
    try:
        return __import__(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'audio needs the package {name}: pip install "mmcompress[audio]"'
        ) from error


def unreadable(kind: str, error: BaseException) -> Unreadable:
    """What a decoder's error says, in one line."""
    reason = f"no readable {kind}"
    if isinstance(error, FileNotFoundError):
        reason = "no such file"
    elif isinstance(error, PermissionError):
        reason = "no permission to read the file"
    # The whole messages of both libraries say where in memory the bytes lie.
    said = getattr(error, "strerror", None) or getattr(error, "error_string", None) or str(error)
    if isinstance(error, UnidentifiedImageError):
        said = "of no known format"
    said = " ".join(said.split())[:120]
    return Unreadable(f"no readable {kind} ({said or type(error).__name__})", reason=reason)
