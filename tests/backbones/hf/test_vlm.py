"""Image-text models of transformers that write answers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BertConfig

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.examples import Example, Waveform
from mmcompress.backbones.hf.vlm import HFVlm, from_pretrained
from mmcompress.backbones.parts import part_sizes
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.experiment import run
from mmcompress.functional.tokens import IGNORED, IMAGE, PADDING, TEXT
from mmcompress.testing.contract import build_recipe
from mmcompress.testing.models import check_backbone
from mmcompress.testing.zoo.family import batch_of, examples_for
from mmcompress.testing.zoo.vlm import build_vlm, untouched_vlm, write_vlm
from mmcompress.testing.zoo.vlm_kinds import ARCHITECTURES

RED = Image.new("RGB", (40, 30), "red")
TURNS = (("user", "a cat?"), ("assistant", "yes"), ("user", "which color?"))


@pytest.fixture(scope="module")
def backbone() -> HFVlm:
    return build_vlm("smolvlm")


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_it_keeps_all_promises(kind: str) -> None:
    recipes = ("gptq", "lowrank")
    assert check_backbone(build_vlm(kind), recipes=recipes) == dict.fromkeys(recipes, "")


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
@torch.no_grad()
def test_it_computes_what_the_library_does(kind: str) -> None:
    """On the processor's own inputs, image and prompt before the answer, nothing padded."""
    mine, theirs = build_vlm(kind), untouched_vlm(kind)
    for example in examples_for(mine, 2):
        batch = mine.prepare([example])
        given = {k: v for k, v in batch.items() if k not in ("labels", "token_kind")}
        expected = theirs(**given, labels=batch["labels"])
        logits, targets = mine.answer_logits(batch)
        kept = expected.logits[:, -logits.shape[1] - 1 : -1]
        torch.testing.assert_close(logits, kept, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.loss(batch), expected.loss, rtol=1e-4, atol=1e-4)
        assert (targets != IGNORED).all()
        assert (batch["token_kind"] == IMAGE).any()
        other = mine.prepare([Example(example.prompt, example.answers, (RED,))])
        assert (mine.answer_logits(other)[0] - logits).abs().max() > 1e-3, "image without effect"


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_it_answers_as_the_library_does(kind: str, tmp_path: Path) -> None:
    """From a folder, through the library's processor and chat template, one at a time."""
    folder = write_vlm(kind, tmp_path / "model")
    processor = AutoProcessor.from_pretrained(folder)
    theirs = AutoModelForImageTextToText.from_pretrained(folder).eval()
    mine = from_pretrained(str(folder))
    examples = examples_for(mine, 3)
    expected = []
    for example in examples:
        given = processor(
            text=mine.inputs.prompt(example), images=list(example.images), return_tensors="pt"
        )
        ids = theirs.generate(**given, max_new_tokens=6, do_sample=False)
        rest = ids[0, given["input_ids"].shape[1] :]
        expected.append(processor.tokenizer.decode(rest, skip_special_tokens=True).strip())
    assert mine.generate(examples, max_tokens=6) == expected


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_an_artifact_answers_as_what_was_stored(kind: str, tmp_path: Path) -> None:
    """Without the model's folder, and the library loads what is written back."""
    compressed = Recipe({"int8": Integer(bits=8)}).apply(build_vlm(kind), [])
    saved = compressed.save(tmp_path / "artifact")
    loaded: Any = Artifact.load(tmp_path / "artifact").backbone
    batch, examples = batch_of(loaded), examples_for(loaded, 3)
    expected, texts = saved.backbone.answer_logits(batch)[0], loaded.generate(examples)
    assert torch.equal(loaded.answer_logits(batch)[0], expected)
    loaded.write_native(tmp_path / "native")
    again = from_pretrained(str(tmp_path / "native"))
    torch.testing.assert_close(again.answer_logits(batch)[0], expected, rtol=1e-4, atol=1e-4)
    assert again.generate(examples) == texts


@pytest.mark.parametrize("kind", list(ARCHITECTURES))
def test_every_architecture_has_its_parts(kind: str) -> None:
    sizes = part_sizes(build_vlm(kind))
    assert {"vision_tower", "projector", "language_model", "embeddings"} <= {*sizes}
    assert {*sizes} <= {"vision_tower", "projector", "language_model", "embeddings", "head"}


def test_an_answer_follows_the_prompt_up_to_its_end(backbone: HFVlm) -> None:
    examples = [Example(TURNS, ("red",), (RED,)), Example("one and one?", ("two",))]
    batch, asked = backbone.prepare(examples), backbone.prepare(examples, answers=False)
    assert "labels" not in asked
    for place, answer in enumerate(("red", "two")):
        ids, labels = batch["input_ids"][place], batch["labels"][place]
        learnt = labels[labels != IGNORED].tolist()
        assert learnt == [*backbone.inputs.tokenizer(answer)["input_ids"], backbone.ends[0]]
        content = ids[batch["attention_mask"][place].bool()].tolist()
        question = asked["input_ids"][place][asked["attention_mask"][place].bool()].tolist()
        assert content == question + learnt
        kinds = batch["token_kind"][place]
        assert torch.equal(kinds == PADDING, batch["attention_mask"][place] == 0)
        assert int((kinds == IMAGE).sum()) == 4 * len(examples[place].images)
        assert (kinds[labels != IGNORED] == TEXT).all()
    text = backbone.inputs.tokenizer.decode(batch["input_ids"][0])
    assert text.index("<image>") < text.index("a cat?") < text.index("yes") < text.index("which")


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (Example("why?", images=(RED,)), "the example 'why.' has no answer to learn"),
        (Example(answers=("x",)), "neither a prompt nor an image: give one, or remove it"),
        (
            Example("why?", ("x",), sound=Waveform(torch.zeros(8), 8000)),
            "'why.' has a sound and backbone=hf_vlm hears none: choose backbone=hf_speech",
        ),
        (
            Example("why " * 200, ("x",), (RED,)),
            r"takes 8\d\d tokens and the model reads 256: shorten it, or set smaller images",
        ),
    ],
)
def test_bad_examples_are_refused_in_one_sentence(
    example: Example, message: str, backbone: HFVlm
) -> None:
    with pytest.raises(ValueError, match=message):
        backbone.prepare([example])


def test_a_processor_without_tokenizer(tmp_path: Path) -> None:
    processor = ARCHITECTURES["smolvlm"].processor().image_processor
    with pytest.raises(ValueError, match=r"processor \(Idefics3ImageProc.* has no tokenizer: add"):
        HFVlm(untouched_vlm("smolvlm"), processor, ends=[1])
    folder = write_vlm("smolvlm", tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(ValueError, match=r"^backbone.name_or_path='.*' cannot be loaded as a"):
        from_pretrained(str(folder))


def test_an_unknown_architecture(tmp_path: Path) -> None:
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model_type='bert' of the config is not supported: give"):
        from_pretrained(str(tmp_path))


def test_no_folder() -> None:
    with pytest.raises(ValueError, match="is no folder, it is not in the cache of the model hub"):
        from_pretrained("nobody/nothing")


def test_a_run_from_questions_to_a_scored_artifact(tmp_path: Path) -> None:
    write_vlm("smolvlm", tmp_path / "model")
    for split, number in (("train", 8), ("test", 4)):
        rows = []
        for index in range(number):
            Image.new("RGB", (32, 32), (30 * index, 0, 99)).save(tmp_path / f"{split}{index}.png")
            question = {"question": "What color?", "answers": [f"color {index}"]}
            rows.append({"image": f"{split}{index}.png"} | question)
        lines = "\n".join(json.dumps(row) for row in rows)
        (tmp_path / f"{split}.jsonl").write_text(lines)
    record = run(
        [
            "backbone=hf_vlm",
            f"backbone.name_or_path={tmp_path / 'model'}",
            "data=questions",
            *(f"data.files.{split}={tmp_path / split}.jsonl" for split in ("train", "test")),
            "objective=captioning",
            "evaluation=captioning",
            "evaluation.latency.batch_sizes=[1]",
            "trainer=post_training",
            "compression=int8",
            "deployed=null",
            "logger=none",
            f"run_dir={tmp_path / 'run'}",
        ]
    )
    metrics = record.metrics
    assert metrics.dense["captioning/perplexity"] > 1
    change = metrics.compressed["captioning/perplexity"] / metrics.dense["captioning/perplexity"]
    assert change == pytest.approx(1, abs=0.05)
    assert record.size.by_part.keys() >= {"vision_tower", "projector", "language_model", "head"}
    covered = record.size.coverage_by_part["int8"]
    assert covered["embeddings"] == covered["head"] == covered["projector"] == 1


CUTS = {
    "neurons": ["compression.steps.neurons.scope=uniform"],
    "heads": ["compression.steps.heads.scope=uniform", "compression.steps.heads.pruning_ratio=0.5"],
    "blocks": [],
}
PLACED = ("gemma3", "paligemma")
"""Their blocks see different windows, so none is removed."""


@pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "qwen2_5_vl"])
def test_the_library_loads_what_is_cut_alike_in_all_blocks(kind: str, tmp_path: Path) -> None:
    """Neurons of tower and language model; heads, by groups, and blocks of the latter."""
    backbone, dense = build_vlm(kind), sum(p.numel() for p in build_vlm(kind).parameters())
    batch = batch_of(backbone)
    for name, settings in CUTS.items():
        if name == "blocks" and kind in PLACED:
            continue
        part = [f"compression.steps.{name}.part=language_model"] if name != "neurons" else []
        build_recipe(name, *settings, *part).apply(backbone, [batch]).finalize()
    assert sum(p.numel() for p in backbone.parameters()) < 0.95 * dense
    backbone.write_native(tmp_path / "native")
    again = from_pretrained(str(tmp_path / "native"))
    with torch.no_grad():
        expected = backbone.answer_logits(batch)[0]
        torch.testing.assert_close(again.answer_logits(batch)[0], expected, rtol=1e-4, atol=1e-4)
    examples = examples_for(again, 2)
    assert again.generate(examples) == backbone.generate(examples)


def test_what_the_library_has_no_key_for_is_refused(tmp_path: Path) -> None:
    """Qwen2.5-VL makes the width of a head from how many there are."""
    backbone = build_vlm("qwen2_5_vl")
    part = "compression.steps.heads.part=language_model"
    recipe = build_recipe("heads", *CUTS["heads"], part)
    recipe.apply(backbone, [batch_of(backbone)]).finalize()
    with pytest.raises(ValueError, match="transformers cannot express this model"):
        backbone.write_native(tmp_path / "native")
