"""Small image-text models that write answers, with processors that need no file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import AutoModelForImageTextToText

from mmcompress.backbones.hf.vlm import HFVlm
from mmcompress.testing.zoo.family import Family, randomized, seeded
from mmcompress.testing.zoo.vlm_kinds import ARCHITECTURES


def untouched_vlm(kind: str) -> Any:
    """transformers' own model, with weights drawn anew.

    Args:
        kind: of `ARCHITECTURES`.
    """
    with seeded():
        model = AutoModelForImageTextToText.from_config(ARCHITECTURES[kind].config())
        return randomized(model, std=0.1).eval()


def build_vlm(kind: str) -> HFVlm:
    """The backbone of `untouched_vlm`."""
    return HFVlm(untouched_vlm(kind), ARCHITECTURES[kind].processor()).eval()


def write_vlm(kind: str, folder: Path) -> Path:
    """A folder as transformers stores such a model."""
    untouched_vlm(kind).save_pretrained(folder)
    ARCHITECTURES[kind].processor().save_pretrained(folder)
    return folder


def _of_kind(kind: str) -> Callable[[Path], HFVlm]:
    return lambda folder: build_vlm(kind)


FAMILIES = [Family(f"hf_vlm/{kind}", _of_kind(kind)) for kind in ARCHITECTURES]
