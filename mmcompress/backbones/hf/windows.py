"""Sounds → the log mel spectrograms of windows of fixed length that Whisper's encoder hears."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from transformers import WhisperFeatureExtractor

from mmcompress.backbones.examples import Example
from mmcompress.backbones.hf.sounds import check_features
from mmcompress.inputs.files import resample
from mmcompress.inputs.sounds import split_at_quiet

LONGEST = 4 * 3600
"""Seconds of one sound; what is longer is no utterance."""


class Windows:
    """Prepares sounds as `WhisperFeatureExtractor` does.

    Args:
        settings: of the extractor.
        config: of the model.
    Attributes:
        extractor: the library's.
        settings: those that differ from the library's own, as JSON.
        seconds: that the encoder hears at once.
    Raises:
        ValueError: settings that do not fit the model.
    """

    def __init__(self, settings: dict[str, Any], config: Any) -> None:
        check_features({**settings, "fft_window_size": settings.get("n_fft", 400)})
        self.extractor = WhisperFeatureExtractor(**settings)
        plain = WhisperFeatureExtractor().to_dict()
        stored = self.extractor.to_dict()
        self.settings = {k: value for k, value in stored.items() if value != plain.get(k)}
        self.sampling_rate: int = self.extractor.sampling_rate
        self.seconds = float(self.extractor.chunk_length)
        bands, frames = self.extractor.feature_size, self.extractor.nb_max_frames
        if (bands, frames) != (config.num_mel_bins, 2 * config.max_source_positions):
            raise ValueError(
                f"its feature extractor gives {bands} mel bands and {frames} frames and the model "
                f"hears {config.num_mel_bins} and {2 * config.max_source_positions}: correct "
                "feature_size and chunk_length of preprocessor_config.json"
            )

    def features(self, parts: Sequence[np.ndarray]) -> Tensor:
        """Log mel spectrograms (B, bands, frames) float32 of sounds of one window each."""
        found = self.extractor(list(parts), sampling_rate=self.sampling_rate, return_tensors="pt")
        return found["input_features"].float()

    def length(self, parts: Sequence[np.ndarray]) -> float:
        """Seconds of all of them."""
        return sum(map(len, parts)) / self.sampling_rate

    def parts(self, example: Example) -> list[np.ndarray]:
        """The sound of an example at the model's rate, a window at a time.

        Raises:
            ValueError: there is none, it has no samples, or it is beyond all bounds.
        """
        if example.sound is None:
            raise ValueError(
                "an item has no sound and the model writes what it hears: choose data with sounds"
            )
        samples, rate = example.sound.samples, example.sound.rate
        if len(samples) == 0:
            raise ValueError("a sound lasts 0 s: leave it out, or give one with samples")
        if len(samples) > LONGEST * rate:
            raise ValueError(
                f"a sound lasts {len(samples) / rate:.0f} s, more than {LONGEST}: cut it"
            )
        wave = resample(samples.float().numpy(), rate, self.sampling_rate)
        return split_at_quiet(wave, self.sampling_rate, self.seconds)


def shorten(model: nn.Module, settings: dict[str, Any], seconds: int) -> dict[str, Any]:
    """Settings of the feature extractor for a shorter window; the model is cut in place.

    The encoder keeps the positions of the first seconds.

    Raises:
        ValueError: the model hears less.
    """
    config: Any = model.config
    extractor = WhisperFeatureExtractor(**settings)
    if not 1 <= seconds <= extractor.chunk_length:
        raise ValueError(
            f"backbone.window={seconds} must be a whole number from 1 to the "
            f"{extractor.chunk_length} seconds that the model hears"
        )
    positions = seconds * extractor.sampling_rate // extractor.hop_length // 2
    encoder: Any = model.get_submodule("model.encoder")
    kept = encoder.embed_positions.weight.detach()[:positions].clone()
    encoder.embed_positions = nn.Embedding.from_pretrained(kept, freeze=True)
    encoder.max_source_positions = config.max_source_positions = positions
    derived = ("n_samples", "nb_max_frames")
    return {k: v for k, v in settings.items() if k not in derived} | {"chunk_length": seconds}
