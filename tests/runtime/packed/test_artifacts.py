"""Artifacts of every recipe, codec and family run packed, and embed as the dense decode does."""

from functools import partial
from pathlib import Path

import pytest
import torch

from mmcompress.artifact.folder import Artifact
from mmcompress.runtime.packed.load import load_packed
from mmcompress.testing.zoo.families import FAMILIES
from tests.artifact.test_fixtures_0_1 import reference

FAST = ("codec_", "recipe_w8a8", "recipe_smoothquant", "recipe_minivit_int4", "family_hf_clip")
"""What is no slow test begins so: every codec, and what multiplies integers."""

NAMES = [
    pytest.param(name, marks=() if name.startswith(FAST) else pytest.mark.slow)
    for name in reference.NAMES
]


@pytest.mark.parametrize("name", NAMES)
def test_runs_packed_with_the_embeddings_of_the_dense_decode(name: str, tmp_path: Path) -> None:
    described = reference.read_expected(name)
    folder = reference.FOLDER / name / "artifact"
    build_own = partial(FAMILIES["custom"].build, tmp_path)  # its code is the user's
    dense = Artifact.load(folder, skeleton=build_own)
    packed = load_packed(folder, skeleton=build_own)
    inputs = reference.build_inputs(described["inputs"])
    for modality in described["embeddings"]:
        with torch.no_grad():
            expected = dense.backbone.encode(modality, inputs[modality])
            found = packed.backbone.encode(modality, inputs[modality])
        # Products of integers are exact, those of floats are not: an input that lies between two
        # steps may be rounded the other way.
        atol = 2e-2 if "integers multiply" in packed.kinds.values() else 1e-5
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("name", ["codec_int4", "recipe_gptq", "recipe_int8", "codec_blocks"])
def test_takes_the_memory_of_its_codes(name: str) -> None:
    folder = reference.FOLDER / name / "artifact"
    dense = sum(p.nbytes for p in Artifact.load(folder).backbone.parameters())
    packed = load_packed(folder)
    assert set(packed.kinds.values()) <= {"rows are looked up", "decoded for each call"}
    assert packed.bytes < dense


def test_integers_multiply_where_the_recipe_rounds_inputs() -> None:
    packed = load_packed(reference.FOLDER / "recipe_w8a8" / "artifact")
    kinds = list(packed.kinds.values())
    assert kinds.count("integers multiply") > kinds.count("decoded for each call")


def test_activations_may_be_rounded_on_request() -> None:
    folder = reference.FOLDER / "recipe_int8" / "artifact"
    described = reference.read_expected("recipe_int8")
    inputs = reference.build_inputs(described["inputs"])["image"]
    packed = load_packed(folder, activations="int8")
    assert "integers multiply" in packed.kinds.values()
    with torch.no_grad():
        found = packed.backbone.encode("image", inputs)
        expected = Artifact.load(folder).backbone.encode("image", inputs)
    assert torch.nn.functional.cosine_similarity(found, expected).min() > 0.999
    with pytest.raises(ValueError, match="activations='int4' must be int8"):
        load_packed(folder, activations="int4")
