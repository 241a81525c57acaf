"""Sounds as tensors, read from files and brought to the rate and length that a model hears."""

from pathlib import Path

import torch

from mmcompress.backbones.examples import Waveform
from mmcompress.inputs.files import Unreadable, read_sound, resample


def read_audio(source: bytes | Path) -> Waveform:
    """A waveform, the mean of all channels.

    Raises:
        Unreadable: no sound, or a damaged file.
        ModuleNotFoundError: the extra `audio` is not installed.
    """
    samples, rate = read_sound(source)
    return Waveform(torch.from_numpy(samples), rate)


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
    return Waveform(torch.from_numpy(resample(wave.samples.numpy(), wave.rate, rate)), rate)


def cropped(wave: Waveform, seconds: float, *, at: float = 0.5) -> Waveform:
    """As long as asked for: a part of a longer wave; a shorter one stays as it is.

    Args:
        at: where in the wave the part lies, from 0 at its start to 1 at its end.
    """
    length = round(seconds * wave.rate)
    start = round(max(len(wave.samples) - length, 0) * at)
    return Waveform(wave.samples[start : start + length], wave.rate)
