"""The adapter for two-tower models of transformers, against the untouched models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    ClapFeatureExtractor,
    PreTrainedModel,
    VisionTextDualEncoderConfig,
    ViTConfig,
)
from transformers.models.siglip2.image_processing_siglip2 import Siglip2ImageProcessor

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.kinds import KINDS
from mmcompress.backbones.hf.siglip2 import unpacked
from mmcompress.backbones.hf.two_towers import HF, from_pretrained
from mmcompress.backbones.hf.two_towers import untrained as untrained_from
from mmcompress.testing.zoo.hf import CONFIGS, IMAGE, SOUND_FEATURES, TEXT, adapt, build_clip
from mmcompress.testing.zoo.hf import untouched as build
from mmcompress.testing.zoo.words import build_tokenizer

TOLERANCE = {"rtol": 1e-4, "atol": 1e-5}
TEXTS = ["red cat", "blue house key", "star"]


@pytest.fixture(params=CONFIGS)
def untouched(request: pytest.FixtureRequest) -> PreTrainedModel:
    return build(request.param)


def inputs_of(backbone: HF) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    batch = {"text": backbone.tokenize(TEXTS)}
    if "image" in backbone.modalities:
        pixels = torch.randint(0, 256, (3, 3, 40, 36), generator=generator, dtype=torch.uint8)
        return batch | {"image": backbone.preprocess(pixels)}
    seconds = torch.arange(8000) / 8000
    waves = [torch.sin(2 * torch.pi * pitch * seconds) for pitch in (200, 900, 2500)]
    return batch | {"audio": backbone.preprocess_audio(waves)}


def by_the_library(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Features as transformers' own processors would have them computed."""
    ids = batch["text"]
    sees_padding = KINDS[model.config.model_type].sees_padding
    mask = None if sees_padding else (ids != 2).long()
    found = {"text": model.get_text_features(input_ids=ids, attention_mask=mask)}
    if "image" in batch and batch["image"].ndim == 3:  # see tests/backbones/hf/test_processors.py
        found["image"] = model.get_image_features(**unpacked(batch["image"]))
    elif model.config.model_type == "siglip2":
        processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=16, do_resize=False)
        images = [image.double().numpy() for image in batch["image"]]
        options = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
        patches = processor(images, input_data_format="channels_first", **options)
        patches["pixel_values"] = patches["pixel_values"].float()
        found["image"] = model.get_image_features(**patches)
    elif "image" in batch:
        found["image"] = model.get_image_features(pixel_values=batch["image"])
    else:
        found["audio"] = model.get_audio_features(batch["audio"])
    return {modality: output.pooler_output for modality, output in found.items()}


def test_equals_the_untouched_model(untouched: PreTrainedModel) -> None:
    backbone = adapt(untouched)
    batch = inputs_of(backbone)
    assert {*batch} == {*backbone.modalities}
    with torch.no_grad():
        expected = by_the_library(untouched, batch)
        for modality, inputs in batch.items():
            found = getattr(backbone, f"encode_{modality}")(inputs)
            torch.testing.assert_close(found, expected[modality], **TOLERANCE)
            assert found.std(dim=0).mean() > 1e-3, "the inputs make no difference"
    assert backbone.logit_scale.shape == ()


def test_covered_and_every_target_runs(untouched: PreTrainedModel) -> None:
    backbone = adapt(untouched)
    targets = {target.name: target for target in backbone.targets()}
    for modality in backbone.modalities:
        sizes = {
            name: parameter.numel()
            for name, parameter in backbone.model.named_parameters()
            if backbone.modality_of(name) == modality
        }
        share = sum(size for name, size in sizes.items() if name in targets) / sum(sizes.values())
        assert share >= 0.95, (modality, share)
        roles = {t.role for t in targets.values() if t.modality == modality}
        assert {"attn.q", "attn.k", "attn.v", "attn.out", "mlp.up", "mlp.down"} <= roles
    kinds = ("normalization", "bias", "scalar of ", "vector of ")
    assert all(reason.startswith(kinds) for reason in backbone.remainder().values())
    assert all(backbone.modality_of(t.name) == t.modality for t in targets.values())
    ran = set()
    # SigLIP 2 stretches its positions and reads them as a parameter.
    layers = [t for t in targets.values() if t.granularity != "matrix" and t.role != "position"]
    for target in layers:
        module = backbone.model.get_submodule(target.module)
        module.register_forward_hook(lambda *_, name=target.name: ran.add(name))
    for modality, inputs in inputs_of(backbone).items():
        backbone.encode(modality, inputs)
    assert ran == {t.name for t in layers}


def test_from_a_folder(untouched: PreTrainedModel, tmp_path: Path) -> None:
    untouched.save_pretrained(tmp_path)
    build_tokenizer().save(str(tmp_path / "tokenizer.json"))
    audio = untouched.config.model_type == "clap"
    pixels = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "resample": 2}
    pixels["size"] = {"height": 32, "width": 32}
    # Files of the model hub say more than the extractor's arguments.
    sound = SOUND_FEATURES | {"processor_class": "ClapProcessor", "chunk_length_s": 1}
    stored = sound if audio else pixels
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    backbone = from_pretrained(str(tmp_path))
    spec = json.loads(json.dumps(backbone.spec))
    assert HF.from_spec(spec, tmp_path).spec == spec
    if audio:
        assert backbone.sampling_rate == 8000
    else:
        settings = spec["image_processor"]
        assert pixels.items() <= settings.items()
    batch = inputs_of(backbone)
    with torch.no_grad():
        expected = by_the_library(untouched, batch)
        for modality, inputs in batch.items():
            found = getattr(backbone, f"encode_{modality}")(inputs)
            torch.testing.assert_close(found, expected[modality], **TOLERANCE)


def test_an_untrained_one_from_its_config() -> None:
    config = CONFIGS["clap"]().to_dict()
    with pytest.raises(ValueError, match="vocab_size must be at least 1536"):
        untrained_from(config, features=SOUND_FEATURES)
    config["text_config"]["vocab_size"] = 1536
    first, again, other = (
        untrained_from(config, features=SOUND_FEATURES, seed=seed) for seed in (0, 0, 1)
    )
    ids = first.tokenize(["a recording of the spoken digit seven"])
    with torch.no_grad():
        embedded = [backbone.encode("text", ids) for backbone in (first, again, other)]
    assert torch.equal(embedded[0], embedded[1])
    assert not torch.equal(embedded[0], embedded[2])
    assert first.sampling_rate == 8000


def test_a_text_tower_needs_a_padding_token() -> None:
    config = CONFIGS["vit_bert"]()
    config.text_config.pad_token_id = None
    model = KINDS[config.model_type].model(config)
    with pytest.raises(ValueError, match="the text_config has no pad_token_id"):
        HF(model, build_tokenizer())


def test_a_clip_model_gets_its_own_adapter(tmp_path: Path) -> None:
    tiny = build_clip()
    tiny.model.save_pretrained(tmp_path)
    tiny.tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert type(from_pretrained(str(tmp_path))) is HFClip


def test_texts_are_padded_as_in_training() -> None:
    siglip = adapt(KINDS["siglip"].model(CONFIGS["siglip"]()))
    ids = siglip.tokenize(TEXTS)
    assert ids.shape == (3, 16)
    assert siglip.valid_tokens("text", ids) is None
    bert = adapt(KINDS["vision-text-dual-encoder"].model(CONFIGS["vit_bert"]()))
    ids = bert.tokenize(TEXTS)
    assert ids.shape == (3, 5)
    assert bert.valid_tokens("text", ids).sum(dim=1).tolist() == [4, 5, 3]
    assert bert.tokenize(["red " * 50]).shape == (1, 16)
    roberta = adapt(KINDS["vision-text-dual-encoder"].model(CONFIGS["vit_roberta"]()))
    assert roberta.tokenize(["red " * 50]).shape == (1, 16)


def test_audio_is_preprocessed_as_by_the_library() -> None:
    clap = adapt(KINDS["clap"].model(CONFIGS["clap"]()))
    wave = 0.1 * torch.randn(8000, generator=torch.Generator().manual_seed(0))
    extractor = ClapFeatureExtractor(**SOUND_FEATURES, truncation="rand_trunc")
    expected = extractor(wave.numpy(), sampling_rate=8000, return_tensors="pt")["input_features"]
    assert torch.equal(clap.preprocess_audio([wave]), expected)
    with pytest.raises(ValueError, match="has no image tower"):
        clap.preprocess(torch.zeros(3, 8, 8))
    with pytest.raises(ValueError, match="has no audio tower"):
        adapt(KINDS["siglip"].model(CONFIGS["siglip"]())).preprocess_audio([wave])


def test_other_models_and_places(tmp_path: Path) -> None:
    BertConfig(**TEXT).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="model_type='bert' of the config is not supported"):
        from_pretrained(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be loaded as a two-tower model"):
        from_pretrained(str(tmp_path))
    wide = ViTConfig(**IMAGE | {"image_size": [32, 16]})
    text = BertConfig(**TEXT)
    config = VisionTextDualEncoderConfig.from_vision_text_configs(wide, text, projection_dim=32)
    with pytest.raises(ValueError, match="images that are not square"):
        HF(KINDS[config.model_type].model(config), build_tokenizer())
