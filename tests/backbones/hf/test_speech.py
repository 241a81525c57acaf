"""Whisper, reduced, against the untouched model; and the real one, where it lies."""

import copy
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import WhisperForConditionalGeneration, WhisperProcessor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.examples import Example, Waveform
from mmcompress.backbones.hf.speech import HFSpeech, from_pretrained
from mmcompress.compression.calibration import collect
from mmcompress.exports.targets import export
from mmcompress.functional.tokens import IGNORED, PADDING, TEXT
from mmcompress.testing.contract import build_recipe
from mmcompress.testing.zoo.speech import (
    END,
    FEATURES,
    NO_TIMES,
    START,
    build_whisper,
    build_whisper_tokenizer,
    untouched_whisper,
)

REAL = Path(__file__).parents[4] / "shared" / "data" / "whisper-tiny.en"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real Whisper in {REAL}")


def sound(seconds: float, rate: int = 16000, seed: int = 0) -> Waveform:
    generator = torch.Generator().manual_seed(seed)
    return Waveform(torch.randn(int(seconds * rate), generator=generator).clamp(-1, 1) / 3, rate)


EXAMPLES = [
    Example(sound=sound(0.9), answers=("one two", "1 2")),
    Example(sound=sound(0.4, seed=1), answers=("nine",)),
]


@pytest.fixture
def backbone() -> HFSpeech:
    return build_whisper()


@pytest.fixture
def untouched() -> WhisperForConditionalGeneration:
    return untouched_whisper()


def test_transcripts_are_framed_as_the_decoder_expects(backbone: HFSpeech) -> None:
    batch = backbone.prepare(EXAMPLES)
    text = build_whisper_tokenizer()(" one two", add_special_tokens=False)["input_ids"]
    assert batch["decoder_input_ids"][0].tolist() == [START, NO_TIMES, *text]
    assert batch["labels"][0].tolist() == [IGNORED, *text, END]
    assert batch["token_kind"].eq(TEXT).sum(dim=1).tolist() == [10, 7]
    assert batch["token_kind"][1, 7:].eq(PADDING).all()
    assert batch["labels"][1, 7:].eq(IGNORED).all()


def test_features_are_the_librarys_at_any_sampling_rate(backbone: HFSpeech) -> None:
    soxr = pytest.importorskip("soxr")
    low = sound(0.7, rate=8000)
    expected = backbone._windows.extractor(
        soxr.resample(low.samples.numpy(), 8000, 16000), sampling_rate=16000, return_tensors="pt"
    )
    found = backbone.prepare([Example(sound=low)], answers=False)
    assert torch.equal(found["input_features"], expected["input_features"])


def test_loss_and_logits_are_the_librarys(
    backbone: HFSpeech, untouched: WhisperForConditionalGeneration
) -> None:
    batch = backbone.prepare(EXAMPLES)
    logits, targets = backbone.answer_logits(batch)
    theirs = untouched(
        input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]
    ).logits
    assert torch.equal(logits, theirs)
    expected = cross_entropy(theirs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
    torch.testing.assert_close(backbone.loss(batch), expected)


def test_padding_changes_no_logit(backbone: HFSpeech) -> None:
    alone, _ = backbone.answer_logits(backbone.prepare(EXAMPLES[1:]))
    together, _ = backbone.answer_logits(backbone.prepare(EXAMPLES))
    torch.testing.assert_close(alone[0], together[1, : alone.shape[1]], rtol=1e-4, atol=1e-4)


def test_it_writes_what_the_library_writes(
    backbone: HFSpeech, untouched: WhisperForConditionalGeneration
) -> None:
    features = backbone.prepare(EXAMPLES, answers=False)["input_features"]
    ids = untouched.generate(features, max_new_tokens=9, do_sample=False)
    expected = build_whisper_tokenizer().batch_decode(ids, skip_special_tokens=True)
    assert backbone.generate(EXAMPLES, max_tokens=9) == [text.strip() for text in expected]


def test_long_sounds_are_heard_window_by_window(
    backbone: HFSpeech, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = iter(f"w{number}" for number in range(100))
    monkeypatch.setattr(
        backbone, "_written", lambda features, max_tokens: [next(heard) for _ in features]
    )
    found = backbone.generate([Example(sound=sound(2.5)), EXAMPLES[0], Example(sound=sound(18.0))])
    assert found[:2] == ["w0 w1 w2 w3", "w4"] or found[:2] == ["w0 w1 w2", "w3"]
    assert 18 <= len(found[2].split()) <= 27  # each of at least two thirds of a second


def test_tied_embedding_and_head_are_one_target(backbone: HFSpeech) -> None:
    names = {target.name: target for target in backbone.targets()}
    assert names["proj_out.weight"].role == "embed"
    assert not any("embed_tokens" in name for name in names)
    assert {t.granularity for t in names.values() if t.role == "patch"} == {"conv"}
    total = sum(p.numel() for p in backbone.model.parameters())
    reached = sum(backbone.model.get_parameter(name).numel() for name in names)
    assert reached >= 0.9 * total  # norms and biases are many in so small a model


def test_untied_ones_are_two() -> None:
    backbone = build_whisper(tie_word_embeddings=False)
    roles = {t.name: t.granularity for t in backbone.targets() if t.role == "embed"}
    assert roles == {"model.decoder.embed_tokens.weight": "embedding", "proj_out.weight": "linear"}


def test_the_encoder_runs_once_for_each_sound_in_calibration(backbone: HFSpeech) -> None:
    calls = []
    backbone.model.model.encoder.register_forward_hook(lambda *_: calls.append(1))
    found = collect(backbone, [backbone.prepare(EXAMPLES)] * 3, backbone.targets())
    assert len(calls) == 3
    frames, tokens = 2 * 3 * 25, 3 * (10 + 7)
    seen = {name: found[name].inputs.tokens for name in found if found[name].inputs}
    assert seen["model.encoder.layers.0.fc1.fc1.weight"] == frames
    assert seen["model.decoder.layers.0.encoder_attn.k_proj.weight"] == frames
    assert seen["model.decoder.layers.0.self_attn.q_proj.weight"] == tokens
    assert seen["proj_out.weight"] == tokens


def test_units_of_both_towers_and_both_attentions(backbone: HFSpeech) -> None:
    units = Counter((u.modality, u.granularity) for u in backbone.units() if u.module)
    assert units == {
        ("audio", "stack"): 1,
        ("audio", "block"): 2,
        ("audio", "attention"): 2,
        ("audio", "mlp"): 2,
        ("text", "stack"): 1,
        ("text", "block"): 2,
        ("text", "attention"): 4,
        ("text", "mlp"): 2,
    }


RECIPES = ["int8", "gptq", "lowrank", "cluster", "magnitude", "heads", "neurons", "blocks"]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_is_loaded_writes_what_was_stored(
    recipe: str, backbone: HFSpeech, tmp_path: Path
) -> None:
    small = copy.deepcopy(backbone)
    compressed = build_recipe(recipe).apply(small, [small.prepare(EXAMPLES)])
    saved = compressed.save(tmp_path / "artifact")
    loaded = Artifact.load(tmp_path / "artifact").backbone
    batch = loaded.prepare(EXAMPLES)
    assert all(torch.equal(value, backbone.prepare(EXAMPLES)[key]) for key, value in batch.items())
    assert torch.equal(loaded.answer_logits(batch)[0], saved.backbone.answer_logits(batch)[0])
    assert not torch.equal(loaded.answer_logits(batch)[0], backbone.answer_logits(batch)[0])
    assert loaded.generate(EXAMPLES) == saved.backbone.generate(EXAMPLES)
    assert loaded.spellings == {"mum": "mom"}


def test_a_native_checkpoint_is_what_the_library_loads(backbone: HFSpeech, tmp_path: Path) -> None:
    backbone.write_native(tmp_path / "hf")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf")
    processor = WhisperProcessor.from_pretrained(tmp_path / "hf")
    batch = backbone.prepare(EXAMPLES)
    logits = model(
        input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]
    ).logits
    torch.testing.assert_close(logits, backbone.answer_logits(batch)[0], rtol=1e-5, atol=1e-5)
    assert processor.feature_extractor.nb_max_frames == 50
    again = from_pretrained(str(tmp_path / "hf"))
    assert torch.equal(again.answer_logits(batch)[0], backbone.answer_logits(batch)[0])


@pytest.mark.parametrize(("recipe", "kept"), [("neurons", (2, 32)), ("blocks", (1, 64))])
def test_what_is_cut_alike_everywhere_loads_in_the_library(
    recipe: str, kept: tuple[int, int], backbone: HFSpeech, tmp_path: Path
) -> None:
    compressed = build_recipe(recipe).apply(backbone, [backbone.prepare(EXAMPLES)])
    small = compressed.save(tmp_path / "artifact").backbone
    small.write_native(tmp_path / "hf")
    model = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf")
    config = model.config
    assert (config.encoder_layers, config.encoder_ffn_dim) == kept
    assert (config.decoder_layers, config.decoder_ffn_dim) == kept
    batch = small.prepare(EXAMPLES)
    logits = model(
        input_features=batch["input_features"], decoder_input_ids=batch["decoder_input_ids"]
    ).logits
    torch.testing.assert_close(logits, small.answer_logits(batch)[0], rtol=1e-5, atol=1e-5)


def test_heads_that_are_gone_are_nothing_that_the_library_has(
    backbone: HFSpeech, tmp_path: Path
) -> None:
    compressed = build_recipe("heads").apply(backbone, [backbone.prepare(EXAMPLES)])
    small = compressed.save(tmp_path / "artifact").backbone
    with pytest.raises(ValueError, match=r"transformers cannot express this model: its config"):
        small.write_native(tmp_path / "hf")


def test_a_shorter_window_keeps_the_first_positions(tmp_path: Path) -> None:
    features = FEATURES | {"chunk_length": 3}
    long = HFSpeech(
        untouched_whisper(max_source_positions=75), build_whisper_tokenizer(), features=features
    )
    long.write_native(tmp_path / "hf")
    short = from_pretrained(str(tmp_path / "hf"), window=1)
    positions = "model.encoder.embed_positions.weight"
    assert torch.equal(
        short.model.get_parameter(positions), long.model.get_parameter(positions)[:25]
    )
    features = short.prepare(EXAMPLES, answers=False)["input_features"]
    assert features.shape == (2, 8, 50)
    with pytest.raises(ValueError, match=r"window=4 must be a whole number from 1 to the 3 sec"):
        from_pretrained(str(tmp_path / "hf"), window=4)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example(answers=("one",)), "^an item has no sound"),
        (Example(sound=sound(0.0), answers=("one",)), "^a sound lasts 0 s"),
        (Example(sound=sound(600, rate=1000), answers=("one",)), "lasts 600.0 s and the model hea"),
        (Example(sound=Waveform(torch.zeros(5 * 3600), 1)), "lasts 18000 s, more than 14400"),
        (Example(sound=sound(0.5)), "has no answer"),
        (Example(sound=sound(0.5), answers=("one " * 20,)), "tokens and the decoder reads 48"),
    ],
)
def test_what_cannot_be_heard_is_one_sentence(
    backbone: HFSpeech, example: Example, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        backbone.prepare([example])
    assert "\n" not in str(caught.value)


def test_a_language_for_a_model_of_english(untouched: WhisperForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match=r"language='german'.* English alone"):
        HFSpeech(untouched, build_whisper_tokenizer(), features=FEATURES, language="german")


def test_features_of_another_model(untouched: WhisperForConditionalGeneration) -> None:
    with pytest.raises(ValueError, match="gives 80 mel bands and 50 frames"):
        HFSpeech(untouched, build_whisper_tokenizer(), features=FEATURES | {"feature_size": 80})


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be loaded as a speech-to-text model"):
        from_pretrained(str(tmp_path))


@needs_real
@pytest.mark.slow
def test_the_real_one_is_read_in_full_and_its_parts_are_targets() -> None:
    backbone = from_pretrained(str(REAL))
    sizes = {name: p.numel() for name, p in backbone.model.named_parameters()}
    assert sum(sizes.values()) == 37760256
    for part in ("model.encoder.", "model.decoder.", "proj_out."):
        total = sum(size for name, size in sizes.items() if name.startswith(part))
        reached = sum(sizes[t.name] for t in backbone.targets() if t.name.startswith(part))
        assert reached >= 0.95 * total, part
    assert len(backbone.spellings) > 1000


def test_the_command_exports_what_the_library_loads(backbone: HFSpeech, tmp_path: Path) -> None:
    artifact = build_recipe("int8").apply(backbone, []).save(tmp_path / "artifact")
    export(artifact, "hf", tmp_path / "hf")
    again = from_pretrained(str(tmp_path / "hf"))
    assert again.generate(EXAMPLES) == artifact.backbone.generate(EXAMPLES)
    with pytest.raises(ValueError, match="HFSpeech"):
        export(artifact, "onnx", tmp_path / "onnx")
