"""Transcripts by a loaded model."""

from pathlib import Path

import numpy as np
import pytest

import mmcompress as mmc
from mmcompress.runtime.dense import DenseModel
from mmcompress.testing.contract import build_recipe
from mmcompress.testing.zoo.hf import build_clip
from mmcompress.testing.zoo.speech import build_whisper

SOUND = (np.random.default_rng(0).uniform(-0.3, 0.3, 6000).astype(np.float32), 8000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_recipe("int8").apply(build_whisper(), []).save(tmp_path / "artifact")
    return tmp_path / "artifact"


def test_paths_and_samples_give_the_same_text(folder: Path, tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "said.wav", SOUND[0], SOUND[1], subtype="FLOAT")
    model = mmc.load(folder)
    texts = model.transcribe([tmp_path / "said.wav", SOUND], max_tokens=5)
    assert len(texts) == 2
    assert texts[0] == texts[1]


def test_packed_weights_write_the_same_text(folder: Path) -> None:
    dense, packed = (mmc.load(folder, runtime) for runtime in ("dense", "packed"))
    assert dense.transcribe([SOUND], max_tokens=8) == packed.transcribe([SOUND], max_tokens=8)


def test_ten_minutes_are_heard_in_windows(folder: Path) -> None:
    silence = (np.zeros(600 * 1000, np.float32), 1000)
    model = mmc.load(folder)
    model.backbone._written = lambda features, max_tokens: ["word"] * len(features)
    (text,) = model.transcribe([silence])
    assert 600 <= len(text.split()) <= 900  # windows of a second, cut after two thirds at the least


@pytest.mark.parametrize(
    ("sounds", "message"),
    [
        ([], "there are no sounds"),
        ("said.wav", "transcribe takes a list and got a str"),
        ([(np.zeros(0, np.float32), 8000)], r"sounds\[0\]: samples of shape \(0,\)"),
        (["missing.wav"], r"sounds\[0\]=missing.wav: no readable sound"),
    ],
)
def test_what_cannot_be_heard(folder: Path, sounds: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mmc.load(folder).transcribe(sounds)


def test_a_model_that_only_embeds() -> None:
    with pytest.raises(ValueError, match="this model embeds image and text, and no audio"):
        DenseModel(build_clip()).transcribe([SOUND])
