"""Token ids of open_clip's models against `open_clip.get_tokenizer`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch

from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.testing.zoo.tokenizers import bert, clip, gemma, roberta, write, xlm
from tests.backbones.hf.test_tokenizers import TEXTS
from tests.backbones.open_clip.test_hub import SMALL

CASES: dict[str, tuple[Callable[..., None] | None, dict[str, Any], dict[str, Any]]] = {
    "own": (None, {}, {}),
    "own, shorter": (None, {}, {"context_length": 9}),
    "own, canonical": (None, {}, {"tokenizer_kwargs": {"clean": "canonicalize"}}),
    "own, white space": (None, {}, {"tokenizer_kwargs": {"clean": "whitespace"}}),
    "bert": (bert, {"do_lower_case": True}, {}),
    "bert, cased": (bert, {"do_lower_case": False}, {"context_length": 9}),
    "bert, no separators": (
        bert,
        {"do_lower_case": True},
        {"tokenizer_kwargs": {"strip_sep_token": True}},
    ),
    "bert, clips": (
        bert,
        {"do_lower_case": True, "bos_token": "[CLS]", "eos_token": "[SEP]"},
        {"tokenizer_mode": "clips"},
    ),
    "roberta": (roberta, {"add_prefix_space": True}, {}),
    "xlm": (xlm, {}, {"tokenizer_kwargs": {"clean": "canonicalize"}}),
    "clip": (clip, {}, {"tokenizer_kwargs": {"clean": "lower"}}),
    "siglip2": (
        gemma,
        {"name": "GemmaTokenizer"},
        {"tokenizer_kwargs": {"clean": "canonicalize"}},
    ),
    "siglip2, in front": (gemma, {"name": "Siglip2Tokenizer", "padding_side": "left"}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_ids_are_open_clips(case: str, tmp_path: Path) -> None:
    build, settings, options = CASES[case]
    folder, assets, out = (tmp_path / name for name in ("dense", "assets", "out"))
    for place in (folder, assets, out):
        place.mkdir()
    text = SMALL["text_cfg"] | {"vocab_size": 49408 if build is None else 700} | options
    if build is not None:
        build(folder, **settings)
        text |= {"hf_tokenizer_name": "somewhere/else"}
    config = SMALL | {"text_cfg": text}
    write(folder, "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": {}})
    name = f"local-dir:{folder}"
    backbone = OpenClip.from_pretrained(name)
    expected = open_clip.get_tokenizer(name)(TEXTS)
    assert len(set(expected.flatten().tolist())) > 8
    assert torch.equal(backbone.tokenize(TEXTS), expected)
    assert all(
        torch.equal(backbone.tokenize([t])[0], e) for t, e in zip(TEXTS, expected, strict=True)
    )

    backbone.save_assets(assets)
    backbone.write_native(out)
    shutil.rmtree(folder)  # an artifact needs nothing else
    again = OpenClip.from_spec(json.loads(json.dumps(backbone.spec)), assets)
    assert torch.equal(again.tokenize(TEXTS), expected)
    assert torch.equal(open_clip.get_tokenizer(f"local-dir:{out}")(TEXTS), expected)


def test_what_is_refused(tmp_path: Path) -> None:
    """A vocabulary that is missing, one that is too large, tokens drawn at random."""
    name = f"local-dir:{tmp_path}"

    def read(**text: Any) -> OpenClip:
        config = SMALL | {"text_cfg": SMALL["text_cfg"] | text}
        write(tmp_path, "open_clip_config.json", {"model_cfg": config, "preprocess_cfg": {}})
        return OpenClip.from_pretrained(name)

    with pytest.raises(ValueError, match=r"reduction_mask='shuffle' .* at random: take it out"):
        read(tokenizer_kwargs={"reduction_mask": "shuffle"})
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "BertTokenizer"})
    with pytest.raises(ValueError, match=r"no vocabulary for its BertTokenizer: add"):
        read(hf_tokenizer_name="x")
    bert(tmp_path)
    words = len((tmp_path / "vocab.txt").read_text("utf-8").splitlines())
    with pytest.raises(ValueError, match=f"has 100 token embeddings for the {words} tokens of"):
        read(hf_tokenizer_name="x", vocab_size=100)
    bert(tmp_path, additional_special_tokens=["<extra>"])
    backbone = read(hf_tokenizer_name="x", vocab_size=words)
    assert int(backbone.tokenize(["a cat"]).max()) < words
    with pytest.raises(ValueError, match=f"'a <extra> cat' has the token {words} and the model"):
        backbone.tokenize(["a cat", "a <extra> cat"])
