"""From the bytes of a file to an image or a waveform."""

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError, features
from torch import Tensor

from mmcompress.functional.rgb import with_alpha

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


@dataclass(frozen=True)
class Waveform:
    """Sound of one channel.

    Attributes:
        samples: (n,), float32 in [−1, 1].
        rate: samples per second.
    """

    samples: Tensor
    rate: int


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


def read_audio(source: bytes | Path) -> Waveform:
    """A waveform, the mean of all channels.

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
    wave = Waveform(torch.from_numpy(channels.mean(axis=1)), rate)
    check_finite(wave)
    return wave


def check_finite(wave: Waveform) -> None:
    """Refuse a sound whose values are no numbers.

    Raises:
        Unreadable: says how many.
    """
    bad = int((~wave.samples.isfinite()).sum())
    if bad:
        raise Unreadable(f"no readable sound ({bad} of its samples are NaN or infinite)")


def resampled(wave: Waveform, rate: int) -> Waveform:
    """At another rate, by soxr's band-limited resampler: one sample at least."""
    if wave.rate == rate:
        return wave
    soxr = import_audio("soxr")
    # Fewer samples than make up one at the new rate would leave none.
    missing = math.ceil(wave.rate / rate) - len(wave.samples)
    samples = F.pad(wave.samples, (0, max(missing, 0)))
    return Waveform(torch.from_numpy(soxr.resample(samples.numpy(), wave.rate, rate)), rate)


def cropped(wave: Waveform, seconds: float, *, at: float = 0.5) -> Waveform:
    """As long as asked for: a part of a longer wave; a shorter one stays as it is.

    Args:
        at: where in the wave the part lies, from 0 at its start to 1 at its end.
    """
    length = round(seconds * wave.rate)
    start = round(max(len(wave.samples) - length, 0) * at)
    return Waveform(wave.samples[start : start + length], wave.rate)


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
