"""Small tokenizers in the files that the classes of transformers read, settings and all."""

import io
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

CORPUS = ["a photo of a cat", "two dogs playing", "word word", "café quoted emoji inside"] * 20
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write(folder: Path, name: str, content: Any) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / name).write_text(text, encoding="utf-8")


def byte_pairs(special: list[str], suffix: str = "") -> tuple[dict[str, int], list[str]]:
    """Vocabulary and merges of a byte-level BPE."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    ending: dict[str, Any] = {"end_of_word_suffix": suffix} if suffix else {}
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
    import sentencepiece as library

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
