"""LLaVA, reduced, against the untouched model."""

import copy
import math
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlavaForConditionalGeneration, RobertaTokenizer

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.generative import HFGenerative, from_pretrained
from mmcompress.compression.calibration import collect
from mmcompress.compression.calls import block_calls
from mmcompress.compression.quantization.gptq import GPTQ
from mmcompress.compression.recipe import Recipe
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.perplexity import Perplexity
from mmcompress.exports.targets import export
from mmcompress.modules.cuts import keep_blocks, keep_neurons
from mmcompress.objectives.captioning import Captioning
from mmcompress.testing.zoo.hf import llava_config, untouched_llava
from mmcompress.testing.zoo.tokenizers import roberta
from mmcompress.testing.zoo.words import build_tokenizer
from mmcompress.training.module import CompressionModule, TrainingData
from tests.conftest import store

TEXTS = ["red cat", "blue house key", "star"]


@pytest.fixture
def untouched() -> LlavaForConditionalGeneration:
    return untouched_llava()


@pytest.fixture
def backbone(untouched: LlavaForConditionalGeneration) -> HFGenerative:
    return HFGenerative(copy.deepcopy(untouched), build_tokenizer()).eval()


def batch_of(backbone: HFGenerative) -> dict[str, Tensor]:
    pixels = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return {"image": pixels, "text": backbone.tokenize(TEXTS)}


def test_captions_are_framed_and_padded(backbone: HFGenerative) -> None:
    ids = backbone.tokenize(TEXTS)
    assert (ids[:, 0] == 0).all()
    assert [row.tolist().count(1) for row in ids] == [1, 1, 1]
    assert [int(row.ne(2).sum()) for row in ids] == [4, 5, 3]
    backbone.max_tokens = 4
    assert backbone.tokenize(["red cat house key star"]).shape == (1, 4)


def test_the_loss_is_the_librarys(
    backbone: HFGenerative, untouched: LlavaForConditionalGeneration
) -> None:
    """Sixteen patches stand before the caption; its first token is given."""
    batch = batch_of(backbone)
    joined = torch.cat([torch.full((3, 16), 63), batch["text"]], dim=1)
    labels = joined.masked_fill((joined == 63) | (joined == 2), -100)
    labels[:, 16] = -100  # the beginning
    with torch.no_grad():
        expected = untouched(
            input_ids=joined,
            pixel_values=batch["image"],
            attention_mask=(joined != 2).long(),
            labels=labels,
        ).loss
        found = backbone.loss(batch)
    torch.testing.assert_close(found, expected)
    other = batch | {"image": batch["image"].flip(0)}
    assert abs(backbone.loss(other) - found) > 1e-3, "the image makes no difference"


def test_blocks_behind_the_features_are_left_out(
    backbone: HFGenerative, untouched: LlavaForConditionalGeneration
) -> None:
    """Of three the last is not used; that the outputs stay is tested above."""
    counts = [len(m.model.vision_tower.encoder.layers) for m in (untouched, backbone.model)]
    assert counts == [3, 2]
    config = backbone.spec["config"]
    assert config["vision_feature_layer"] == -1
    assert config["vision_config"]["num_hidden_layers"] == 2


def test_padding_makes_no_difference(backbone: HFGenerative) -> None:
    batch = batch_of(backbone)
    short = {"image": batch["image"][2:], "text": batch["text"][2:, :3]}
    with torch.no_grad():
        alone, _ = backbone.answer_logits(short)
        together, _ = backbone.answer_logits(batch)
    torch.testing.assert_close(together[2:, :2], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        backbone.encode_text(batch["text"])[2:], backbone.encode_text(short["text"])
    )


def test_covered_and_every_target_runs(backbone: HFGenerative) -> None:
    targets = {t.name: t for t in backbone.targets()}
    sizes = {name: p.numel() for name, p in backbone.model.named_parameters()}
    assert sum(sizes[name] for name in targets) >= 0.95 * sum(sizes.values())
    kinds = ("normalization", "bias", "vector of ")
    assert all(reason.startswith(kinds) for reason in backbone.remainder().values())
    assert {t.role for t in targets.values() if t.modality == "text"} == {
        *("attn.q", "attn.k", "attn.v", "attn.out", "mlp.up", "mlp.gate", "mlp.down"),
        *("embed", "head"),
    }
    assert not {t.role for t in targets.values()} & {"linear", "conv"}
    ran = set()
    layers = [t for t in targets.values() if t.granularity != "matrix"]
    for target in layers:
        module = backbone.model.get_submodule(target.module)
        module.register_forward_hook(lambda *_, name=target.name: ran.add(name))
    for one in backbone.passes():
        one.run(batch_of(backbone))
    assert ran == {t.name for t in layers}


def test_passes_show_all_and_time_everything_once(backbone: HFGenerative) -> None:
    image, caption = backbone.passes()
    assert (image.name, image.modalities, image.timed) == ("image", ("image",), False)
    assert (caption.name, caption.modalities, caption.repeats) == ("caption", ("text",), True)
    assert backbone.pass_of("text").name == "caption"


def greedy(backbone: HFGenerative, images: Tensor) -> list[str]:
    """One token after the other, at most 6, by the logits of the caption so far."""
    captions = []
    for image in images:
        ids = [backbone._first]
        while len(ids) <= 6 and ids[-1] != backbone._end:
            padded = torch.tensor([[*ids, backbone._end]])  # what comes last is not read
            with torch.no_grad():
                logits, _ = backbone.answer_logits({"image": image[None], "text": padded})
            ids.append(int(logits[0, len(ids) - 1].argmax()))
        captions.append(backbone.tokenizer.decode([i for i in ids[1:] if i != backbone._end]))
    return captions


def whole(blocks: nn.ModuleList) -> nn.ModuleList:
    return blocks


def without_the_first(blocks: nn.ModuleList) -> nn.ModuleList:
    return keep_blocks(blocks, [1])


def with_one_twice(blocks: nn.ModuleList) -> nn.ModuleList:
    return nn.ModuleList([blocks[1], blocks[1]])


@pytest.mark.parametrize("edit", [whole, without_the_first, with_one_twice])
def test_captions_are_the_most_probable_tokens(backbone: HFGenerative, edit) -> None:
    """A cache knows blocks by their place, which they may have changed, or by two places."""
    images = batch_of(backbone)["image"]
    language_model = backbone.model.model.language_model
    language_model.layers = edit(language_model.layers)
    expected = greedy(backbone, images)
    assert backbone.caption(images, max_tokens=6) == expected
    assert all(expected)


def test_the_language_model_is_written_back_with_fewer_blocks_and_neurons(
    backbone: HFGenerative, tmp_path: Path
) -> None:
    language_model, batch = backbone.model.model.language_model, batch_of(backbone)
    language_model.layers = keep_blocks(language_model.layers, [1])
    keep_neurons(language_model.layers[0].mlp, range(20))
    backbone.write_native(tmp_path)
    with torch.no_grad():
        found, _ = from_pretrained(str(tmp_path)).answer_logits(batch)
        assert torch.equal(found, backbone.answer_logits(batch)[0])


def test_calibration_sees_image_and_caption_and_no_padding(backbone: HFGenerative) -> None:
    targets = [t for t in backbone.targets() if t.role == "mlp.down" and t.modality == "text"]
    found = collect(backbone, [batch_of(backbone)], targets)
    assert [found[t.name].inputs.tokens for t in targets] == [3 * 16 + 4 + 5 + 3] * 2


def test_blocks_run_one_by_one_on_image_and_caption(backbone: HFGenerative) -> None:
    """From the first block's call to the logits; no cache remembers an earlier run."""
    batch, language_model = batch_of(backbone), backbone.model.model.language_model
    (call,) = block_calls(backbone, language_model.layers, "text", [batch])
    assert call.hidden.shape == (3, 16 + 5, 32)
    with torch.no_grad():
        for _ in range(2):
            again = copy.copy(call)
            for block in language_model.layers:
                again.hidden = again.run(block)
            logits = backbone.model.lm_head(language_model.norm(again.hidden))[:, 16:-1]
            torch.testing.assert_close(logits, backbone.answer_logits(batch)[0])


def test_stored_loaded_and_written_back(backbone: HFGenerative, tmp_path: Path) -> None:
    batch = batch_of(backbone)
    recipe = Recipe({"gptq": GPTQ(bits=4)})
    compressed = recipe.apply(backbone, [batch])
    artifact = store(tmp_path / "artifact", compressed)
    loaded = Artifact.load(artifact.folder)
    assert torch.equal(loaded.backbone.tokenize(TEXTS), batch["text"])
    with torch.no_grad():
        expected, _ = backbone.answer_logits(batch)
        found, _ = loaded.backbone.answer_logits(batch)
        assert torch.equal(found, expected)
        export(loaded, "hf", tmp_path / "out")
        again, _ = from_pretrained(str(tmp_path / "out")).answer_logits(batch)
    assert torch.equal(again, expected)


def test_it_is_trained_on_captions(backbone: HFGenerative, tiny_data) -> None:
    tiny_data.attach(backbone)
    evaluators = {"perplexity": Perplexity()}
    before = evaluate(backbone, tiny_data, evaluators, "train")["captioning/perplexity"]
    assert 30 < before < 120  # 64 tokens, random weights
    pl.seed_everything(0, verbose=False)
    module = CompressionModule(
        Recipe().restore(backbone, {}),
        Captioning(distillation=0.1),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2),
        teacher=copy.deepcopy(backbone),
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=8,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, TrainingData(tiny_data))
    after = evaluate(backbone, tiny_data, evaluators, "train")["captioning/perplexity"]
    assert after < before / 3
    assert 1 < trainer.callback_metrics["val/perplexity"] < before


def test_distillation_is_zero_at_the_teacher(backbone: HFGenerative) -> None:
    objective, batch = Captioning(distillation=2.0), batch_of(backbone)
    terms = objective(backbone, batch, teacher=backbone)
    assert terms["distillation"].item() == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(terms["captioning"], backbone.loss(batch))
    scores = objective.metrics(objective.outputs(backbone, batch))
    assert scores["perplexity"] == pytest.approx(math.exp(backbone.loss(batch).item()), rel=1e-5)


def test_what_it_refuses(tmp_path: Path, tiny_backbone, tiny_data) -> None:
    model = LlavaForConditionalGeneration(llava_config(pad_token_id=1))
    with pytest.raises(ValueError, match=r"set each to a token of its own in config.json"):
        HFGenerative(model, build_tokenizer())
    with pytest.raises(ValueError, match="HFClip is none: choose backbone=llava"):
        Captioning()(tiny_backbone, {})
    tiny_data.attach(tiny_backbone)
    with pytest.raises(ValueError, match="perplexity needs a generative model and HFClip is none"):
        evaluate(tiny_backbone, tiny_data, {"perplexity": Perplexity()}, "test")
    with pytest.raises(ValueError, match="cannot be loaded as a generative image-text model"):
        from_pretrained(str(tmp_path))


def test_ids_are_the_librarys(tmp_path: Path) -> None:
    """Those of a caption without special tokens, between the config's own."""
    roberta(tmp_path, add_prefix_space=True)
    RobertaTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    config = llava_config(vocab_size=700)
    config.image_token_id = 699
    LlavaForConditionalGeneration(config).save_pretrained(tmp_path)
    backbone = from_pretrained(str(tmp_path), max_tokens=12)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["A Photo, of a CAT!", "café 😀", "", "word " * 30]
    rows = theirs(texts, add_special_tokens=False)["input_ids"]
    expected = [[0, *ids[:10], 1] for ids in rows]
    length = max(map(len, expected))
    padded = torch.tensor([ids + [2] * (length - len(ids)) for ids in expected])
    assert torch.equal(backbone.tokenize(texts), padded)


def test_a_caption_that_spells_out_an_image(backbone: HFGenerative) -> None:
    with pytest.raises(ValueError, match="'a word46' spells out the token that stands for"):
        backbone.tokenize(["red cat", "a word46"])
