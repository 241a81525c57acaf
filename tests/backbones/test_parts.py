"""Which part of a model each tensor belongs to."""

from pathlib import Path

import pytest
from torch import nn

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.card import parts_of
from mmcompress.backbones.custom import Custom
from mmcompress.backbones.hf.generative import HFGenerative
from mmcompress.backbones.parts import part_sizes, parts_of_tensors
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.format.parts import PARTS, in_order
from mmcompress.testing.zoo.hf import untouched_llava
from mmcompress.testing.zoo.words import build_tokenizer


@pytest.fixture
def llava() -> HFGenerative:
    return HFGenerative(untouched_llava(), build_tokenizer()).eval()


def test_the_parts_of_a_generator(llava: HFGenerative) -> None:
    sizes = part_sizes(llava)
    assert {*sizes} == {"vision_tower", "projector", "language_model", "embeddings", "head"}
    assert sizes["embeddings"] == sizes["head"] == 64 * 32
    projector = llava.model.model.multi_modal_projector
    assert sizes["projector"] == sum(p.numel() for p in projector.parameters())
    assert sizes.total() == sum(p.numel() for p in llava.model.parameters())
    for part, row in parts_of(llava).items():
        assert row.parameters == sizes[part]
        assert row.targets + sum(row.left.values()) == row.parameters
        assert row.targets >= 0.95 * row.parameters


def test_a_bias_lies_where_its_weight_does() -> None:
    own = Custom(
        image_encoder=nn.Sequential(nn.Linear(4, 3)),
        transform=lambda image: image,
        roles=[(r"image_encoder\.0\.weight", "image", "proj")],
    )
    bias = "image_encoder.0.bias"
    assert parts_of_tensors(own, [bias, "logit_scale"]) == {
        bias: "projector",
        "logit_scale": "shared",
    }


def test_parts_are_selectors_and_rows(llava: HFGenerative, tmp_path: Path) -> None:
    recipe = Recipe({"int8": Integer(bits=8, part=["projector", "head"])})
    compressed = recipe.apply(llava, [])
    covered = compressed.coverage_by_part["int8"]
    assert covered["vision_tower"] == covered["language_model"] == covered["embeddings"] == 0
    assert covered["head"] == 1
    assert covered["projector"] == 2 * 32 * 32 / (2 * 32 * 32 + 2 * 32)
    artifact = compressed.save(tmp_path / "artifact")
    for stored in (artifact, Artifact.read(artifact.folder)):
        encoded = {row.part for row in stored.ledger() if row.payload == "codes"}
        assert encoded == {"projector", "head"}
        size = stored.size_summary()
        assert sum(size["by_part"].values()) == size["artifact_bytes"]
        assert [*size["by_part"]] == sorted(size["by_part"], key=in_order)
        assert {*size["by_part"]} <= {*PARTS}


def test_a_part_that_is_not_there_is_refused(llava: HFGenerative) -> None:
    with pytest.raises(ValueError, match=r"part='audio_tower' matched 0 of .*; .* here: emb"):
        Recipe({"int8": Integer(bits=8, part="audio_tower")}).check(llava)
