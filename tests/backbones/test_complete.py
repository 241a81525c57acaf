"""What lies in a model's files and is no part of the model is refused, or named in the log."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig, BertModel

from mmcompress.backbones.complete import listed
from mmcompress.backbones.hf.generative import from_pretrained as generative
from mmcompress.backbones.hf.sentence import HFText
from mmcompress.backbones.hf.two_towers import from_pretrained
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.testing.zoo.hf import build_clip, untouched_llava
from mmcompress.testing.zoo.words import build_tokenizer

OPEN_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"width": 16, "layers": 1, "image_size": 32, "patch_size": 16, "head_width": 8},
    "text_cfg": {
        "width": 16,
        "layers": 1,
        "heads": 2,
        "context_length": 8,
        "vocab_size": 49408,
    },
}


def build(kind: str, folder: Path) -> None:
    if kind == "open_clip":
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": OPEN_CLIP}))
        state = open_clip.CLIP(**OPEN_CLIP).state_dict()
        save_file(state, folder / "model.safetensors")
        return
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = text | {"intermediate_size": 16, "vocab_size": 64, "pad_token_id": 2}
    models = {"clip": lambda: build_clip().model, "llava": untouched_llava}
    model = BertModel(BertConfig(**sizes)) if kind == "text" else models[kind]()
    model.save_pretrained(folder)
    build_tokenizer().save(str(folder / "tokenizer.json"))


def load(kind: str, folder: Path) -> Any:
    if kind == "open_clip":
        name, file = f"local-dir:{folder}", str(folder / "model.safetensors")
        return OpenClip.from_pretrained(name, pretrained=file)
    readers: dict[str, Callable[[str], Any]] = {
        "clip": from_pretrained,
        "llava": generative,
        "text": HFText.from_folder,
    }
    return readers[kind](str(folder))


KINDS = ["clip", "llava", "text", "open_clip"]


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def write_adapter(folder: Path) -> None:
    config = {"peft_type": "LORA", "base_model_name_or_path": "someone/base", "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file({"a.lora_A.weight": torch.ones(2, 4)}, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_weights_beside_a_model(kind: str, tmp_path: Path) -> None:
    build(kind, tmp_path)
    load(kind, tmp_path)
    write_adapter(tmp_path)
    message = (
        r"^backbone\.\w+='.*' holds adapter weights \(adapter_config\.json, "
        r"adapter_model\.safetensors\) for the base model 'someone/base', .*merge_and_unload\(\)"
    )
    with pytest.raises(ValueError, match=message):
        load(kind, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_adapter_weights_in_place_of_a_model(kind: str, tmp_path: Path) -> None:
    write_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text("no json")
    with pytest.raises(ValueError, match=r"holds adapter weights .* for a base model, which"):
        load(kind, tmp_path)


def wrap_query(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """As peft saves a model whose adapter is not merged."""
    name = next(key for key in state if key.endswith("weight") and state[key].ndim == 2)
    stem = name.removesuffix("weight")
    weight = state.pop(name)
    low = {f"{stem}lora_A.default.weight": torch.ones(2, weight.shape[1])}
    return state | low | {f"{stem}base_layer.weight": weight}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_with_an_adapter_inside(kind: str, tmp_path: Path) -> None:
    build(kind, tmp_path)
    rewrite(tmp_path, wrap_query)
    message = r"holds 2 weights of an adapter that is not merged \(\S+base_layer\.weight, \S+lora_A"
    with pytest.raises(ValueError, match=message):
        load(kind, tmp_path)


def ours(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Lines on weights; transformers logs a table besides."""
    return [r.getMessage() for r in caplog.records if r.name == "mmcompress.backbones.complete"]


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_weights_that_the_model_has_no_place_for_are_named(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    build(kind, tmp_path)
    with caplog.at_level(logging.WARNING, logger="mmcompress"):
        load(kind, tmp_path)
        assert not ours(caplog)
        extra = {f"head.{name}": torch.ones(2) for name in "dcba"}
        rewrite(tmp_path, lambda state: state | extra)
        load(kind, tmp_path)
    (line,) = ours(caplog)
    assert "holds 4 weights that are no part of" in line
    assert line.endswith("and are left out: head.a, head.b, head.c ...")


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_weights_of_another_shape(kind: str, tmp_path: Path) -> None:
    build(kind, tmp_path)
    rewrite(tmp_path, lambda state: {k: v[1:] if v.ndim == 2 else v for k, v in state.items()})
    message = r"other shapes than its config\.json asks for \(\S+: \(\d+, \d+\) in the file, \("
    with pytest.raises(ValueError, match=message):
        load(kind, tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state | {"head.a": torch.ones(2)}, r"Unexpected key\(s\).* \"head\.a\""),
        (lambda s: {k: v for k, v in s.items() if k != "ln_final.bias"}, r"\"ln_final\.bias\""),
    ],
)
def test_open_clip_takes_all_or_nothing(change: Any, message: str, tmp_path: Path) -> None:
    build("open_clip", tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(ValueError, match=rf"does not hold the weights of .*{message}"):
        load("open_clip", tmp_path)


def test_lists_are_cut_with_a_mark() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c", "d"]) == "a, b, c ..."
