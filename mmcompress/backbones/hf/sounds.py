"""Waveforms → the spectrograms that CLAP reads, by transformers' own feature extractor.

A sound that is longer than the model's window leaves a choice, which the library draws anew each
time. Here the same sound always gives the same features: without fusion those of its middle; with
fusion (Wu et al. 2023, arXiv:2211.06687, section 3.4) three parts of it, each in the middle of the
third of all places that the library draws from, behind the whole sound made as short as the window.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import ClapFeatureExtractor

LARGEST_FILTERS = 2**22
"""Mel filters of an audio model, by the frequencies that each weighs; CLAP's are 64 x 513."""

FILTERS_FILE = "mel_filters.npy"

PADDINGS = ("repeatpad", "repeat", "pad")


class Sounds:
    """Prepares sounds as `ClapFeatureExtractor` does, and never at random.

    Args:
        settings: of the extractor; those left out are the library's, except that `truncation` is
            what the model needs.
        tower: config of the model's audio tower.
    Attributes:
        extractor: the library's, made deterministic.
        settings: those that differ from the library's own, as JSON.
        sampling_rate: of the waveforms, in Hz.
        window: seconds that the model reads of a longer sound; None where it reads all.
    Raises:
        ValueError: a setting that the model or the library cannot work with.
    """

    def __init__(self, settings: dict[str, Any] | None, tower: Any) -> None:
        truncation = "fusion" if tower.enable_fusion else "rand_trunc"
        check_features(settings or {})
        self.extractor = _Extractor(**{"truncation": truncation} | (settings or {}))
        _check(self.extractor, tower)
        plain = ClapFeatureExtractor().to_dict()
        stored = self.extractor.to_dict()
        self.settings = {k: value for k, value in stored.items() if value != plain.get(k)}
        self.sampling_rate: int = self.extractor.sampling_rate
        self.window = None if tower.enable_fusion else float(self.extractor.max_length_s)

    def __call__(self, waveforms: Sequence[Tensor]) -> Tensor:
        """Features (B, 1, frames, mel bands) float32, with 4 in place of 1 for fusion.

        Args:
            waveforms: (samples,) each, floats in [−1, 1] or integers of their full range.
        Raises:
            ValueError: a sound without samples, with several channels, or that is not finite.
        """
        waves = [self._middle(_as_floats(wave)).numpy() for wave in waveforms]
        found = self.extractor(waves, sampling_rate=self.sampling_rate, return_tensors="pt")
        return found["input_features"].float()

    def feeding(self, folder: Path) -> dict[str, Any]:
        """The same, as `mmcompress.inputs.sounds` takes it; its file of filters is in `folder`.

        Raises:
            ValueError: the model fuses several parts of a sound.
        """
        made = self.extractor
        if self.window is None:
            raise ValueError("it fuses several parts of a long sound, which no settings say")
        np.save(folder / FILTERS_FILE, made.mel_filters_slaney)
        lengths = {"fft": made.fft_window_size, "hop": made.hop_length}
        heard = {"sampling_rate": made.sampling_rate, "samples": made.nb_max_samples}
        return heard | lengths | {"padding": made.padding, "filters": FILTERS_FILE}

    def save(self, folder: Path) -> None:
        """Write what `AutoFeatureExtractor` reads."""
        ClapFeatureExtractor(**self.settings).save_pretrained(folder)

    def _middle(self, wave: Tensor) -> Tensor:
        if self.window is None:
            return wave
        length = self.extractor.nb_max_samples
        start = max(len(wave) - length, 0) // 2
        return wave[start : start + length]


def check_features(features: Mapping[str, Any]) -> None:
    """Refuse settings of a feature extractor that would build filters without bounds.

    Raises:
        ValueError: more than `LARGEST_FILTERS` values of filters, or settings that are no numbers.
    """
    names = {"feature_size": 64, "fft_window_size": 1024, "nb_frequency_bins": 513}
    mels, window, bins = (features.get(name, usual) for name, usual in names.items())
    numbers = isinstance(mels, int) and isinstance(window, int) and isinstance(bins, int)
    if not numbers or min(mels, window) < 1 or mels * max(window, bins) > LARGEST_FILTERS:
        raise ValueError(
            f"feature_size={mels} and fft_window_size={window} of the feature extractor ask for "
            f"more than {LARGEST_FILTERS:,} values of filters: correct preprocessor_config.json"
        )


class _Extractor(ClapFeatureExtractor):
    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"feature_extractor_type": ClapFeatureExtractor.__name__}

    def _random_mel_fusion(self, mel: Any, total_frames: int, chunk_frames: int) -> Any:
        """As the library's, with a fixed place for each part; for any number of mel bands.

        Args:
            mel: (total_frames, bands).
        Returns:
            (4, chunk_frames, bands): the whole, and a part of each third.
        """
        thirds = np.array_split(np.arange(total_frames - chunk_frames + 1), 3)
        starts = [int(third[(len(third) - 1) // 2]) if len(third) else 0 for third in thirds]
        whole = torch.as_tensor(mel)[None, None]
        size = (chunk_frames, mel.shape[1])
        small = F.interpolate(whole, size=size, mode="bilinear", align_corners=False)
        parts = [mel[start : start + chunk_frames] for start in starts]
        return np.stack([small[0, 0].numpy(), *parts])


def read_sounds(name_or_path: str, local: bool) -> dict[str, Any]:
    """Settings of a model's feature extractor, from a folder or the model hub.

    Raises:
        ValueError: there are none, or they are of another class.
    """
    try:
        found, _ = ClapFeatureExtractor.get_feature_extractor_dict(
            name_or_path, local_files_only=local
        )
    except OSError as error:
        raise ValueError(
            "it has no settings of its feature extractor: add its preprocessor_config.json"
        ) from error
    kind = found.get("feature_extractor_type", ClapFeatureExtractor.__name__)
    if kind != ClapFeatureExtractor.__name__:
        raise ValueError(
            f"feature_extractor_type={kind!r} of its preprocessor_config.json must be "
            f"{ClapFeatureExtractor.__name__}"
        )
    return found


def _check(extractor: ClapFeatureExtractor, tower: Any) -> None:
    """Refuse what the library stumbles over or passes over when a sound comes."""
    needed = "fusion" if tower.enable_fusion else "rand_trunc"
    bands, length = extractor.feature_size, extractor.max_length_s
    problem = None
    if extractor.truncation != needed:
        problem = f"truncation={extractor.truncation!r} must be {needed!r}: the model's "
        problem += f"enable_fusion is {tower.enable_fusion}"
    elif extractor.padding not in PADDINGS:
        problem = f"padding={extractor.padding!r} must be one of {', '.join(PADDINGS)}"
    elif not isinstance(length, int) or length < 1:
        problem = f"max_length_s={length} must be a whole number of seconds"
    elif bands != tower.num_mel_bins:
        problem = f"feature_size={bands} must be {tower.num_mel_bins}, the model's num_mel_bins"
    else:
        frames = extractor.nb_max_samples // extractor.hop_length + 1
        most = tower.spec_size * (tower.spec_size // tower.num_mel_bins)
        if frames > most:
            problem = f"max_length_s={length} gives {frames} frames and the model reads {most}"
    if problem:
        raise ValueError(f"{problem} (settings of the feature extractor)")


def _as_floats(wave: Tensor) -> Tensor:
    if wave.ndim != 1 or len(wave) == 0:
        raise ValueError(
            f"a sound of shape {tuple(wave.shape)} must be (samples,): one channel, not empty"
        )
    if not wave.is_floating_point():
        half = 2 ** (torch.iinfo(wave.dtype).bits - 1)
        middle = half if wave.dtype == torch.uint8 else 0
        return ((wave.double() - middle) / half).float()
    if not math.isfinite(float(wave.abs().max())):
        raise ValueError("a sound holds NaN or infinite samples: leave it out")
    return wave.detach().float().cpu()
