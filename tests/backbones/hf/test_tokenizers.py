"""Token ids against transformers' `AutoTokenizer`, called as the family's processor calls it."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.kinds import KINDS
from mmcompress.backbones.hf.tokenizer_files import load_tokenizer, stored_tokenizer
from mmcompress.backbones.hf.tokenizers import (
    check_vocabulary,
    highest_id,
    id_tensor,
    prepared,
    to_ids,
)
from mmcompress.backbones.hf.two_towers import from_pretrained
from mmcompress.testing.zoo.hf import CONFIGS, SOUND_FEATURES
from mmcompress.testing.zoo.tokenizers import bert, clip, gemma, roberta, siglip, write, xlm

TEXTS = [
    "A Photo of a CAT!",
    "  two   dogs, (playing) ",
    "Café — “quoted”",
    "",
    "word " * 100,
    "😀 emoji",
    "a\nb\tc",
]
MINI = Path(__file__).parents[3] / "mmcompress" / "backbones" / "mini"


Case = tuple[str, Callable[..., None], dict[str, Any]]
CASES: dict[str, Case] = {
    "siglip": ("siglip", siglip, {}),
    "siglip2": ("siglip2", gemma, {"name": "Siglip2Tokenizer"}),
    "siglip2 of Gemma's class": ("siglip2", gemma, {"name": "GemmaTokenizerFast"}),
    "siglip2, shorter": ("siglip2", gemma, {"name": "GemmaTokenizer", "model_max_length": 7}),
    "siglip2, padded in front": (
        "siglip2",
        gemma,
        {"name": "GemmaTokenizer", "padding_side": "left", "truncation_side": "left"},
    ),
    "chinese_clip": ("chinese_clip", bert, {"do_lower_case": True}),
    "chinese_clip, cased": ("chinese_clip", bert, {"do_lower_case": False}),
    "altclip": ("altclip", xlm, {}),
    "vit_bert, accents": ("vit_bert", bert, {"do_lower_case": True, "strip_accents": False}),
    "vit_roberta": ("vit_roberta", roberta, {}),
    "vit_roberta, space": ("vit_roberta", roberta, {"add_prefix_space": True}),
    "clap": ("clap", roberta, {"model_max_length": 10}),
}


def as_processor(folder: Path, texts: list[str], kind: str, limit: int) -> torch.Tensor:
    theirs = AutoTokenizer.from_pretrained(folder)
    padding = "max_length" if kind.startswith("siglip") else "longest"
    limit = min(limit, theirs.model_max_length)
    found = theirs(texts, padding=padding, truncation=True, max_length=limit, return_tensors="pt")
    return found["input_ids"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "dense").mkdir()
    yield tmp_path / "dense"
    shutil.rmtree(tmp_path)


def stored_model(folder: Path, kind: str, pad_id: int) -> None:
    """Weights and config that fit the tokenizer in the folder."""
    config = CONFIGS[kind]()
    config.text_config.vocab_size = 700
    config.text_config.pad_token_id = pad_id
    KINDS[config.model_type].model(config).save_pretrained(folder)
    if kind == "clap":
        write(folder, "preprocessor_config.json", SOUND_FEATURES | {"truncation": "rand_trunc"})


@pytest.mark.parametrize("case", CASES)
def test_ids_are_the_librarys(case: str, folder: Path) -> None:
    kind, build, settings = CASES[case]
    if build is siglip:
        for package in ("sentencepiece", "google.protobuf"):
            pytest.importorskip(package, reason="needs mmcompress[sentencepiece]")
    build(folder, **settings)
    pad_id = {"bert": 0, "gemma": 0, "siglip": 2}.get(build.__name__, 1)
    stored_model(folder, kind, pad_id)
    backbone = from_pretrained(str(folder))
    limit = 17 if pad_id == 1 else 16  # RoBERTa counts positions from behind the padding index
    expected = as_processor(folder, TEXTS, kind, limit)
    assert len(set(expected.flatten().tolist())) > 8
    assert torch.equal(backbone.tokenize(TEXTS), expected)
    alone = [as_processor(folder, [text], kind, limit) for text in TEXTS]
    assert all(torch.equal(backbone.tokenize([t]), a) for t, a in zip(TEXTS, alone, strict=True))

    assets, out = folder.parent / "assets", folder.parent / "out"
    assets.mkdir()
    out.mkdir()
    backbone.save_assets(assets)
    backbone.write_native(out)
    shutil.rmtree(folder)  # an artifact needs nothing else
    again = type(backbone).from_spec(json.loads(json.dumps(backbone.spec)), assets)
    assert torch.equal(again.tokenize(TEXTS), expected)
    assert torch.equal(as_processor(out, TEXTS, kind, limit), expected)


def clip_folder(folder: Path, **text: Any) -> None:
    clip(folder)
    vocabulary = json.loads((folder / "vocab.json").read_text("utf-8"))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    ids |= {"vocab_size": len(vocabulary), "max_position_embeddings": 12, **text}
    heads = {"num_attention_heads": 2}
    config = CLIPConfig(
        text_config=sizes | heads | ids,
        vision_config=sizes | heads | {"image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    CLIPModel(config).save_pretrained(folder)


def test_clip_is_cut_at_its_end_token(folder: Path) -> None:
    clip_folder(folder)
    backbone = from_pretrained(str(folder))
    assert isinstance(backbone, HFClip)
    theirs = AutoTokenizer.from_pretrained(folder)
    expected = theirs(TEXTS, padding=True, truncation=True, return_tensors="pt")["input_ids"]
    found = backbone.tokenize(TEXTS)
    assert torch.equal(found, expected)
    assert found.shape[1] == 9
    assert found[4, 0] == 0
    assert found[4, -1] == 1


def test_an_end_token_that_no_text_has(folder: Path) -> None:
    """transformers would read every text out at its first token."""
    clip_folder(folder, eos_token_id=7)
    with pytest.raises(ValueError, match=r"eos_token_id=7 .* not among the tokens \[0, 1\] that"):
        from_pretrained(str(folder))


def test_mini_is_what_it_was_trained_with(folder: Path) -> None:
    """By its own file, by transformers and without the file that names its class."""
    file = Tokenizer.from_file(str(MINI / "tokenizer.json"))
    expected = [encoding.ids for encoding in file.encode_batch(TEXTS)]
    theirs = AutoTokenizer.from_pretrained(MINI)(TEXTS, padding=True, truncation=True)
    assert theirs["input_ids"] == expected
    for name in ("tokenizer.json", "config.json"):
        shutil.copy(MINI / name, folder)
    for place in (MINI, folder):
        tokenizer = prepared(
            load_tokenizer(str(place), local=True), max_tokens=32, pad_id=2, to_end=False
        )
        assert to_ids(tokenizer, TEXTS) == expected


def test_more_tokens_than_embeddings(folder: Path) -> None:
    clip_folder(folder, vocab_size=300)
    with pytest.raises(ValueError, match=r"dense': the tokenizer has \d{3} tokens and the"):
        from_pretrained(str(folder))


def test_an_artifact_of_a_model_with_too_few_embeddings_loads(folder: Path, tmp_path: Path) -> None:
    """0.1 wrote them; a text with a token that has no embedding is refused when it comes."""
    clip_folder(folder, vocab_size=300)
    model = CLIPModel.from_pretrained(folder)
    backbone = HFClip(model, load_tokenizer(str(folder), local=True)).eval()
    Artifact.save(
        tmp_path / "artifact",
        backbone,
        structure=[],
        encodings={},
        reasons={},
        dense_bytes=1,
        dense_parameters=1,
        run={},
    )
    loaded = Artifact.load(tmp_path / "artifact").backbone
    assert torch.equal(loaded.tokenize(["a"]), backbone.tokenize(["a"]))
    with pytest.raises(ValueError, match=r"has the token \d{3} and .* for 0 to 299"):
        loaded.tokenize(TEXTS)


def test_added_tokens_that_no_text_gets_may_lie_behind_the_embeddings() -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "cat": 1}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens([AddedToken("<extra>", special=True)])
    ready = prepared(tokenizer, max_tokens=4, pad_id=0, to_end=False)
    assert highest_id(ready) == 1
    check_vocabulary(ready, 2)
    assert id_tensor(to_ids(ready, ["cat"]), ["cat"], 2).tolist() == [[1]]
    texts = ["cat", "a cat <extra>"]
    with pytest.raises(ValueError, match=r"'a cat <extra>' has the token 2 and .* for 0 to 1"):
        id_tensor(to_ids(ready, texts), texts, 2)
    with pytest.raises(ValueError, match="has 2 tokens and the model embeddings for 1"):
        check_vocabulary(ready, 1)


@pytest.mark.parametrize("name", ["BertTokenizer", "CLIPTokenizer", "Siglip2Tokenizer"])
def test_a_class_without_its_vocabulary(name: str, folder: Path) -> None:
    """transformers builds one of a few special tokens, without a word."""
    write(folder, "config.json", {"model_type": "clip"})
    write(folder, "tokenizer_config.json", {"tokenizer_class": name})
    with pytest.raises(ValueError, match=f"no vocabulary for its {name}: add tokenizer.json"):
        load_tokenizer(str(folder), local=True)


def test_rules_that_no_file_holds(folder: Path) -> None:
    roberta(folder, split_special_tokens=True)
    write(folder, "config.json", {"model_type": "roberta"})
    with pytest.raises(ValueError, match=r"its RobertaTokenizer has rules that no tokenizer\.json"):
        load_tokenizer(str(folder), local=True)


def test_an_artifact_reaches_no_other_class(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BertJapaneseTokenizer"})
    with pytest.raises(ValueError, match="'BertJapaneseTokenizer' must be one of SiglipTokenizer"):
        stored_tokenizer(folder)


def test_no_text_at_all(tiny_backbone: Backbone) -> None:
    assert tiny_backbone.tokenize([]).dtype == torch.int64
