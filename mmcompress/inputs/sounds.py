"""Sounds to the features that an audio tower reads, by settings that are JSON.

`docs/onnx.md` specifies the settings; a backbone says which it takes (`Backbone.feeding`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmcompress.inputs.files import read_sound, resample

Sound = tuple[np.ndarray, int]
"""Samples (n,), float32 in [−1, 1], and how many a second has."""


class Sounds:
    """Features of sounds: mel spectrograms in decibels.

    Args:
        settings: `sampling_rate` in Hz; `samples`, how many the model hears; `padding`, what fills
            up a shorter sound: zeros (`pad`), the sound again as often as it fits and then zeros
            (`repeatpad`), or the sound again and again (`repeat`); `fft` and `hop`, in samples;
            `filters`, the name of a `.npy` file (bins, bands).
        folder: where the file lies.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        self.sampling_rate: int = settings["sampling_rate"]
        self._length, self._padding = settings["samples"], settings["padding"]
        self._fft, self._hop = settings["fft"], settings["hop"]
        self._filters = np.load(folder / settings["filters"], allow_pickle=False).astype(np.float64)

    def __call__(self, sounds: Sequence[Sound]) -> np.ndarray:
        """Float32 (B, 1, frames, bands) of sounds as `as_sound` gives them."""
        waves = [resample(as_floats(s), rate, self.sampling_rate) for s, rate in sounds]
        return np.stack([self._features(self._fitted(wave))[None] for wave in waves])

    def _fitted(self, wave: np.ndarray) -> np.ndarray:
        """Of the length that the model hears: the middle of a longer sound."""
        if len(wave) >= self._length:
            start = (len(wave) - self._length) // 2
            return wave[start : start + self._length]
        times = self._length // len(wave)
        if self._padding == "repeat":
            return np.tile(wave, times + 1)[: self._length]
        wave = np.tile(wave, times) if self._padding == "repeatpad" else wave
        return np.pad(wave, (0, self._length - len(wave)))

    def _features(self, wave: np.ndarray) -> np.ndarray:
        """Frames centered at every hop, mirrored at both ends, under a periodic Hann window."""
        padded = np.pad(wave.astype(np.float64), self._fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self._fft)[:: self._hop]
        spectrum = np.fft.rfft(frames * np.hanning(self._fft + 1)[:-1])  # frames bins
        power = np.abs(spectrum) ** 2 @ self._filters
        return (10.0 * np.log10(np.maximum(power, 1e-10))).astype(np.float32)


def as_floats(samples: np.ndarray) -> np.ndarray:
    """Float32 in [−1, 1]; integers are divided by their full range."""
    if samples.dtype.kind == "f":
        return samples.astype(np.float32)
    half = 2 ** (8 * samples.dtype.itemsize - 1)
    middle = half if samples.dtype == np.uint8 else 0
    return ((samples.astype(np.float64) - middle) / half).astype(np.float32)


def as_sound(value: Any) -> Sound:
    """Samples and rate.

    Args:
        value: a path, or (samples, rate) with one channel (n,) in [−1, 1] and a whole number.
    Raises:
        ValueError: it is neither, or cannot be read.
    """
    if isinstance(value, str | Path):
        return read_sound(Path(value))
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise ValueError(
            f"a {type(value).__name__} is no sound: give a path, or (samples, rate) with the "
            "number of samples per second"
        )
    samples, rate = np.asarray(value[0]), value[1]
    if samples.ndim != 1 or len(samples) == 0 or not isinstance(rate, int) or rate < 1:
        raise ValueError(
            f"samples of shape {samples.shape} with rate={rate!r} are no sound: give one channel "
            "(n,) and a whole number of samples per second"
        )
    return samples, rate


def split_at_quiet(samples: np.ndarray, rate: int, seconds: float) -> list[np.ndarray]:
    """Parts of a sound of at most `seconds` each, in order and without a gap.

    Each except the last ends at the quietest tenth of a second in the last third of what it may
    last, so that few words are cut in two.

    Args:
        samples: (n,), n ≥ 1.
        rate: samples per second.
        seconds: of a part, at most.

    Example:
        >>> [len(part) for part in split_at_quiet(np.ones(25), 10, 1.0)]
        [7, 7, 7, 4]
    """
    most, tenth = max(round(seconds * rate), 1), max(rate // 10, 1)
    parts = []
    while len(samples) > most:
        first = most - most // 3
        frames = samples[first : first + (most - first) // tenth * tenth].reshape(-1, tenth)
        loudness = np.square(frames, dtype=np.float64).sum(axis=1)
        end = first + int(loudness.argmin()) * tenth if len(frames) else most
        parts.append(samples[:end])
        samples = samples[end:]
    return [*parts, samples]
