"""Image-text models that write, in the library: it answers as the artifact does."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.vlm import HFVlm
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.exports.targets import export
from mmcompress.testing.zoo.family import examples_for, randomized, seeded
from mmcompress.testing.zoo.vlm import build_vlm

pytest.importorskip("compressed_tensors")

ITEMS = 16

KINDS = {"smolvlm": 0.2, "qwen2_5_vl": 0.4, "gemma3": 0.3}
"""Deviation of the random weights, so that answers differ and none spells out an image's token."""


@pytest.mark.parametrize("to", ["hf", "compressed-tensors"])
@pytest.mark.parametrize("kind", list(KINDS))
@torch.no_grad()
def test_the_library_writes_the_same_tokens(kind: str, to: str, tmp_path: Path) -> None:
    """All parts in four bits, with cached keys and without; one plain model, two with tied heads,
    of which one scales its embeddings."""
    backbone = build_vlm(kind)
    with seeded():
        randomized(backbone.model, std=KINDS[kind])
    Recipe({"int4": Integer(bits=4)}).apply(backbone, []).save(tmp_path / "artifact")
    artifact = Artifact.load(tmp_path / "artifact")
    mine = artifact.backbone
    assert isinstance(mine, HFVlm)
    examples = examples_for(mine, ITEMS)
    expected = mine.generate(examples, max_tokens=6)
    export(artifact, to, tmp_path / "out")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "out")
    for cached in (True, False):
        found = []
        for example in examples:
            given = processor(
                text=mine.inputs.prompt(example), images=list(example.images), return_tensors="pt"
            )
            # compressed-tensors unpacks at the first forward, and `generate` runs the tower before.
            theirs(**given)
            ids = theirs.generate(**given, max_new_tokens=6, do_sample=False, use_cache=cached)
            found.append(mine.inputs.text(ids[0, given["input_ids"].shape[1] :].tolist()))
        assert found == expected
    assert len(set(expected)) > 1, "all answers are alike, which hides a mix-up"
