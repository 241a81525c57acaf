"""Files to images and waveforms."""

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from mmcompress.backbones.examples import Waveform
from mmcompress.data.decode import cropped, read_audio, resampled
from mmcompress.inputs.files import Unreadable, read_image
from tests.data.conftest import picture, tone


def test_an_image_from_bytes_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture("blue"))
    for source in (picture("blue"), tmp_path / "a.jpg"):
        image = read_image(source)
        assert (image.mode, image.size) == ("RGB", (40, 36))
        assert image.getpixel((5, 5))[2] > 250


@pytest.mark.parametrize("data", [b"", b"no image", picture()[:300], picture()[:-200]])
def test_a_damaged_image(data: bytes) -> None:
    with pytest.raises(Unreadable, match="no readable image"):
        read_image(data)


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_a_sound_is_the_mean_of_its_channels(format: str) -> None:
    file = io.BytesIO()
    left, right = np.full(100, 0.5), np.full(100, -0.25)
    soundfile.write(file, np.stack([left, right], axis=1), 8000, format=format)
    wave = read_audio(file.getvalue())
    assert wave.rate == 8000
    torch.testing.assert_close(wave.samples, torch.full((100,), 0.125), rtol=0, atol=2**-14)


@pytest.mark.parametrize("data", [b"", b"RIFF1234WAVE", tone(100, seconds=0)])
def test_a_damaged_sound(data: bytes) -> None:
    with pytest.raises(Unreadable, match="no readable sound"):
        read_audio(data)


def test_resampling_keeps_a_tone() -> None:
    """440 Hz at 16 kHz and at 8 kHz are the same samples, every second one."""
    wave = read_audio(tone(440, seconds=1.0))
    half = resampled(wave, 8000)
    assert half.rate == 8000
    assert len(half.samples) == 8000
    inner = slice(500, -500)  # the filter rings at the ends
    torch.testing.assert_close(half.samples[inner], wave.samples[::2][inner], rtol=0, atol=1e-3)
    assert resampled(wave, 16000) is wave


@pytest.mark.parametrize("samples", [1, 2, 5, 6, 7])
def test_of_a_few_samples_one_at_least_is_left(samples: int) -> None:
    wave = Waveform(torch.full((samples,), 0.5), 48000)
    found = resampled(wave, 8000)
    assert (len(found.samples), found.rate) == (1, 8000)
    assert bool(found.samples.isfinite().all())


def test_values_that_are_no_numbers_are_damage() -> None:
    file = io.BytesIO()
    samples = np.array([0.5, np.nan, np.inf, 0.5], dtype=np.float32)
    soundfile.write(file, samples, 8000, format="WAV", subtype="FLOAT")
    with pytest.raises(Unreadable, match="2 of its samples are NaN or infinite"):
        read_audio(file.getvalue())


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
def test_every_depth_gives_the_same_samples(subtype: str) -> None:
    file = io.BytesIO()
    samples = np.array([0.0, 0.5, -0.25, 0.125])
    soundfile.write(file, samples, 8000, format="WAV", subtype=subtype)
    found = read_audio(file.getvalue()).samples
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(samples).float(), rtol=0, atol=2**-8)


def test_crops() -> None:
    wave = Waveform(torch.arange(100.0), rate=10)
    assert cropped(wave, 2.0).samples.tolist() == list(range(40, 60))
    assert cropped(wave, 2.0, at=0.0).samples.tolist() == list(range(20))
    assert cropped(wave, 2.0, at=1.0).samples.tolist() == list(range(80, 100))
    assert len(cropped(wave, 20.0).samples) == 100
