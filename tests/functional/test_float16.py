"""Dense tensors that float16 cannot hold stay float32 in an artifact whose others are float16."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmcompress.artifact.dense import dense_file_bytes
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.format.reader import read
from mmcompress.functional.float16 import fits_float16, round_to_float16
from mmcompress.search.groups import bytes_outside
from tests.conftest import store

LOWEST = torch.finfo(torch.float32).min

WIDE = {
    "vision_model.encoder.layers.0.mlp.fc1.bias": 1e5,
    "text_model.final_layer_norm.weight": -3e6,
    "vision_model.pre_layrnorm.bias": 65520.0,  # the first that rounds to infinity
    "logit_scale": 7e4,  # a scalar
}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, 65504.0], True),
        ([65519.0], True),  # rounds down to 65504
        ([65520.0], False),
        ([1.0, LOWEST], False),  # what masks of attention add
        ([-torch.inf, 0.0], True),  # infinite before and after
        ([0.0, -0.0], True),
        ([1e-9, 1.0], True),  # the first is lost beside the second, as it would be in a sum
        ([1e-9, -1e-30], False),  # all would be lost
        ([1e-45], False),
        ([], True),
    ],
)
def test_what_float16_can_hold(values: list[float], expected: bool) -> None:
    tensor = torch.tensor(values)
    assert fits_float16(tensor) is expected
    rounded = round_to_float16(tensor)
    assert torch.equal(rounded, tensor.half().float() if expected else tensor)


@torch.no_grad()
def test_what_overflows_is_stored_as_it_is(
    make_tiny_backbone: Callable[[], HFClip], tmp_path: Path
) -> None:
    backbone = make_tiny_backbone()
    state = backbone.model.state_dict()
    for key, value in WIDE.items():
        state[key].view(-1)[0] = value
    state["text_model.final_layer_norm.bias"].fill_(1e-9)
    wide = {*WIDE, "text_model.final_layer_norm.bias"}
    before = {key: tensor.clone() for key, tensor in state.items()}
    recipe = Recipe({"int8": Integer(bits=8, role="mlp.*")}, dense_dtype="float16")
    compressed = recipe.apply(backbone, [])
    artifact = store(tmp_path / "artifact", compressed)

    loaded = Artifact.load(artifact.folder).backbone.model.state_dict()
    encoded = {key for key in before if ".mlp." in key and key.endswith("weight")}
    for key, tensor in before.items():
        if key in wide:
            assert torch.equal(loaded[key], tensor), key
        elif key not in encoded and tensor.is_floating_point():
            assert torch.equal(loaded[key], tensor.half().float()), key
    for key, tensor in backbone.model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key
    assert {w.name for w in read(artifact.folder) if w.chain or w.name in wide} == encoded | wide
    rows = {row.tensor: row for row in artifact.ledger() if row.tensor in wide}
    assert {(row.payload, row.how) for row in rows.values()} == {("dense", "dense")}
    assert all(row.note.startswith("float32") for row in rows.values())
    assert rows["logit_scale"].bytes == 4
    assert sum(row.bytes for row in artifact.ledger()) == artifact.bytes


@torch.no_grad()
def test_a_budget_counts_it_in_full(make_tiny_backbone: Callable[[], HFClip]) -> None:
    backbone = make_tiny_backbone()
    half = bytes_outside(backbone, [], "float16")
    bias = backbone.model.state_dict()["vision_model.encoder.layers.0.mlp.fc1.bias"]
    bias[0] = 1e5
    assert bytes_outside(backbone, [], "float16") - half == 2 * bias.numel()
    assert dense_file_bytes(backbone.model) > bytes_outside(backbone, [], "float32")
