"""Token ids against transformers' `AutoTokenizer`, called as the family's processor calls it."""

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from families.hf import CONFIGS, SOUND_FEATURES
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, CLIPConfig, CLIPModel

from mmcompress.backbones.base import Backbone
from mmcompress.backbones.hf import KINDS, from_pretrained
from mmcompress.backbones.hf_clip import HFClip
from mmcompress.backbones.hf_tokenizer import (
    check_vocabulary,
    highest_id,
    id_tensor,
    load_tokenizer,
    prepared,
    stored_tokenizer,
    to_ids,
)

CORPUS = ["a photo of a cat", "two dogs playing", "word word", "café quoted emoji inside"] * 20
TEXTS = [
    "A Photo of a CAT!",
    "  two   dogs, (playing) ",
    "Café — “quoted”",
    "",
    "word " * 100,
    "😀 emoji",
    "a\nb\tc",
]
MINI = Path(__file__).parents[2] / "mmcompress" / "backbones" / "mini"
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write(folder: Path, name: str, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")


def byte_pairs(special: list[str], suffix: str = "") -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of a byte-level BPE."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    ending = {"end_of_word_suffix": suffix} if suffix else {}
    tokenizer = Tokenizer(models.BPE(**ending))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=special,
        initial_alphabet=[*alphabet, *(c + suffix for c in alphabet if suffix)],
        show_progress=False,
        **ending,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return model["vocab"], merges


def clip(folder: Path) -> None:
    vocabulary, merges = byte_pairs(["<|startoftext|>", "<|endoftext|>"], suffix="</w>")
    write(folder, "vocab.json", vocabulary)
    write(folder, "merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")
    names = {"pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    write(
        folder, "tokenizer_config.json", {"tokenizer_class": "CLIPTokenizer", "model_max_length": 9}
    )
    write(folder, "special_tokens_map.json", names)


def roberta(folder: Path, **settings: Any) -> None:
    vocabulary, merges = byte_pairs(SPECIAL)
    write(folder, "vocab.json", vocabulary)
    write(folder, "merges.txt", "#version: 0.2\n" + "\n".join(merges) + "\n")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "RobertaTokenizer", **settings})


def bert(folder: Path, **settings: Any) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat", "Cat", "café", "cafe"]
    letters = [*"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ!,()—"]
    more = ["##" + letter for letter in letters[:52]]
    write(folder, "vocab.txt", "\n".join([*words, *letters[1:], *more, "photo", "emoji"]) + "\n")
    write(folder, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **settings})


def gemma(folder: Path, name: str, **settings: Any) -> None:
    """A cased BPE as SigLIP 2 has it."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*CORPUS, *(text.upper() for text in CORPUS)], trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "unk_token": "<unk>", "bos_token": "<bos>"}
    ends = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right"}
    stored = {"tokenizer_class": name, **names, **ends, **settings}
    write(folder, "tokenizer_config.json", stored)


def pieces(folder: Path, name: str = "spiece.model") -> None:
    """A model of sentencepiece."""
    library = pytest.importorskip("sentencepiece", reason="needs mmcompress[sentencepiece]")
    pytest.importorskip("google.protobuf", reason="needs mmcompress[sentencepiece]")
    written = io.BytesIO()
    library.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=written,
        vocab_size=60,
        hard_vocab_limit=False,
        minloglevel=2,
        pad_id=3,
    )
    (folder / name).write_bytes(written.getvalue())


def siglip(folder: Path) -> None:
    pieces(folder)
    stored = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 14}
    write(folder, "tokenizer_config.json", stored)


def xlm(folder: Path) -> None:
    words = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    letters = [("▁", -3.0), *((letter, -4.0) for letter in "abcdefghijklmnopqrstuvwyzACP!")]
    longer = [("▁photo", -2.0), ("▁cat", -2.0), ("▁word", -2.0), ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram([*words, *letters, *longer], unk_id=3))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.save(str(folder / "tokenizer.json"))
    stored = {"tokenizer_class": "XLMRobertaTokenizer", "pad_token": "<pad>"}
    write(folder, "tokenizer_config.json", stored)


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
