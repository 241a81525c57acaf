"""Features of sounds against transformers' `ClapFeatureExtractor`, and none of them at random."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoFeatureExtractor, ClapConfig, ClapFeatureExtractor, ClapModel

from mmcompress.backbones.hf.sounds import Sounds, read_sounds
from mmcompress.backbones.hf.two_towers import HF, from_pretrained
from mmcompress.testing.zoo.hf import CONFIGS, SOUND_FEATURES, build_clap, untouched
from mmcompress.testing.zoo.words import save_tokenizer

RATE = 8000
# The library's own fusion knows no other number of mel bands than 64.
FUSED_FEATURES = SOUND_FEATURES | {"feature_size": 64, "truncation": "fusion"}
TOWER = {
    "spec_size": 128,
    "num_mel_bins": 64,
    "window_size": 4,
    "patch_size": 4,
    "patch_stride": [4, 4],
    "depths": [1, 1, 1],
    "num_attention_heads": [1, 2, 4],
    "patch_embeds_hidden_size": 24,
    "hidden_size": 96,
    "enable_fusion": True,
}


def sweep(seconds: float) -> Tensor:
    """A tone that rises: each part of it sounds otherwise."""
    t = torch.arange(round(RATE * seconds)) / RATE
    return 0.5 * torch.sin(2 * torch.pi * (200 + 150 * t) * t)


def by_the_library(wave: Tensor, **settings: Any) -> dict[str, Tensor]:
    extractor = ClapFeatureExtractor(**settings)
    return extractor(wave.numpy(), sampling_rate=RATE, return_tensors="pt")


def unfused() -> Any:
    return CONFIGS["clap"]().audio_config


def fused() -> Any:
    return ClapConfig(audio_config=TOWER).audio_config


@pytest.fixture(scope="module")
def fused_model() -> HF:
    config = CONFIGS["clap"]().to_dict() | {"audio_config": TOWER}
    torch.manual_seed(0)
    model = ClapModel(ClapConfig.from_dict(config))
    return HF(model, build_clap().tokenizer, features=FUSED_FEATURES).eval()


LENGTHS = [1 / RATE, 0.1, 0.5, 0.99, 1.0]


@pytest.mark.parametrize("seconds", LENGTHS)
@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_short_sounds_are_the_librarys(seconds: float, padding: str) -> None:
    wave, settings = sweep(seconds) + 0.1, SOUND_FEATURES | {"padding": padding}
    plain = by_the_library(wave, **settings, truncation="rand_trunc")["input_features"]
    assert torch.equal(Sounds(settings, unfused())([wave]), plain)
    settings = FUSED_FEATURES | {"padding": padding}
    assert torch.equal(
        Sounds(settings, fused())([wave]), by_the_library(wave, **settings)["input_features"]
    )


def test_of_a_long_sound_the_middle_is_heard() -> None:
    wave = sweep(5)
    middle = wave[2 * RATE : 3 * RATE]
    expected = by_the_library(middle, **SOUND_FEATURES, truncation="rand_trunc")["input_features"]
    sounds = Sounds(SOUND_FEATURES, unfused())
    assert sounds.window == 1.0
    for seed in range(3):
        np.random.seed(seed)
        assert torch.equal(sounds([wave]), expected)


def test_the_middle_of_each_third_is_what_the_library_might_have_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wave = sweep(5)
    sounds = Sounds(FUSED_FEATURES, fused())
    assert sounds.window is None
    monkeypatch.setattr(np.random, "choice", lambda places: places[(len(places) - 1) // 2])
    expected = by_the_library(wave, **FUSED_FEATURES)
    assert expected["is_longer"].tolist() == [[True]]
    found = sounds([wave])
    assert found.shape == (1, 4, 101, 64)
    assert torch.equal(found, expected["input_features"])
    # 501 frames, parts of 101 can start at 0 to 400: thirds of 134, 134 and 133 places.
    whole = by_the_library(wave, **FUSED_FEATURES | {"max_length_s": 5})["input_features"][0, 0]
    for part, start in zip(found[0, 1:], (66, 200, 334), strict=True):
        assert torch.equal(part, whole[start : start + 101])


@pytest.mark.parametrize("samples", [RATE + 1, RATE + 79, RATE + 80, RATE + 160, RATE + 240])
def test_hardly_longer_sounds_of_fusion(samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = sweep(2)[:samples]
    monkeypatch.setattr(np.random, "choice", lambda places: places[(len(places) - 1) // 2])
    expected = by_the_library(wave, **FUSED_FEATURES)["input_features"]
    assert torch.equal(Sounds(FUSED_FEATURES, fused())([wave]), expected)


def test_fusion_embeds_a_sound_as_the_library_alone(
    fused_model: HF, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np.random, "choice", lambda places: places[(len(places) - 1) // 2])
    waves = [sweep(0.5), sweep(1), sweep(5)]
    expected = []
    for wave in waves:
        inputs = by_the_library(wave, **FUSED_FEATURES)
        with torch.no_grad():
            expected.append(fused_model.model.get_audio_features(**inputs).pooler_output)
    with torch.no_grad():
        alone = [fused_model.encode_audio(fused_model.preprocess_audio([wave])) for wave in waves]
        together = fused_model.encode_audio(fused_model.preprocess_audio(waves))
    assert all(torch.equal(a, e) for a, e in zip(alone, expected, strict=True))
    # Other sums in a larger batch.
    torch.testing.assert_close(together, torch.cat(expected), rtol=1e-5, atol=1e-6)


def test_integers_are_scaled_and_64_bits_rounded() -> None:
    sounds = Sounds(SOUND_FEATURES, unfused())
    wave = (sweep(0.5) * 2**15).round() / 2**15
    expected = sounds([wave])
    assert torch.equal(sounds([(wave * 2**15).to(torch.int16)]), expected)
    assert torch.equal(sounds([(wave.double() * 2**31).to(torch.int32)]), expected)
    assert torch.equal(sounds([wave.double()]), expected)
    eight = (wave * 128).round()
    assert torch.equal(sounds([(eight + 128).to(torch.uint8)]), sounds([eight / 128]))


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.zeros(0), r"shape \(0,\) must be \(samples,\): one channel, not empty"),
        (torch.zeros(2, 100), r"shape \(2, 100\) must be \(samples,\)"),
        (torch.tensor([0.0, torch.nan]), "NaN or infinite"),
        (torch.tensor([0.0, torch.inf]), "NaN or infinite"),
    ],
)
def test_what_is_no_sound(wave: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sounds(SOUND_FEATURES, unfused())([wave])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"truncation": "fusion"}, "'fusion' must be 'rand_trunc': .* enable_fusion is False"),
        ({"padding": "wrap"}, "padding='wrap' must be one of repeatpad, repeat, pad"),
        ({"max_length_s": 0.5}, r"max_length_s=0\.5 must be a whole number"),
        ({"feature_size": 64}, "feature_size=64 must be 16, the model's num_mel_bins"),
        ({"max_length_s": 9}, "max_length_s=9 gives 901 frames and the model reads 256"),
    ],
)
def test_settings_that_do_not_fit_the_model(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sounds(SOUND_FEATURES | settings, unfused())


STORED = SOUND_FEATURES | {
    "truncation": "rand_trunc",
    "feature_extractor_type": "ClapFeatureExtractor",
    "padding": "pad",
    "padding_side": "right",
    "padding_value": 0.0,
    "top_db": 80,
    "frequency_min": 50,
    "return_attention_mask": False,
    "processor_class": "ClapProcessor",
    "chunk_length_s": 1,
    "nb_max_samples": 8000,
    "nb_frequency_bins": 257,
}
"""As a model of the hub has them."""


@pytest.mark.parametrize("nested", [False, True])
def test_settings_go_through_an_artifact_and_back_unchanged(nested: bool, tmp_path: Path) -> None:
    source, assets, out = (tmp_path / name for name in ("source", "assets", "out"))
    for folder in (source, assets, out):
        folder.mkdir()
    untouched("clap").save_pretrained(source)
    save_tokenizer(source)
    name = "processor_config.json" if nested else "preprocessor_config.json"
    content = {"feature_extractor": STORED, "processor_class": "ClapProcessor"}
    (source / name).write_text(json.dumps(content if nested else STORED))
    backbone = from_pretrained(str(source))
    backbone.save_assets(assets)
    spec = json.loads(json.dumps(backbone.spec))
    again = HF.from_spec(spec, assets)
    assert again.spec == spec
    again.model.load_state_dict(backbone.model.state_dict())
    again.write_native(out)
    # The library takes a feature extractor's `processor_class` out itself.
    kept = {key: value for key, value in STORED.items() if key != "processor_class"}
    assert json.loads((out / "preprocessor_config.json").read_text("utf-8")) == kept
    theirs = AutoFeatureExtractor.from_pretrained(out)
    wave = sweep(0.3)
    expected = theirs(wave.numpy(), sampling_rate=RATE, return_tensors="pt")["input_features"]
    assert torch.equal(again.preprocess_audio([wave]), expected)


def test_settings_that_are_missing_or_of_another_class(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no settings of its feature extractor: add its prep"):
        read_sounds(str(tmp_path), local=True)
    stored = {"feature_extractor_type": "WhisperFeatureExtractor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"'WhisperFeatureExtractor' of .* must be ClapFeatureEx"):
        read_sounds(str(tmp_path), local=True)
