"""Graphs give what the artifact gives, for any number of inputs and, where it can, any length."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.capabilities import Encoder
from mmcompress.exports.onnx import Tower, graph, write_dense_towers, write_towers
from mmcompress.exports.rounding import input_ranges, rounded_inputs
from mmcompress.testing.contract import RECIPES, build_recipe
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.testing.zoo.family import batch_of
from mmcompress.testing.zoo.hf import build_clip
from tests.conftest import store

pytest.importorskip("onnxscript")
runtime = pytest.importorskip("onnxruntime")

CLOSE = 1e-5
"""Of normalized embeddings in float32: sums in another order."""


def run(folder: Path, tower: Tower, inputs: Tensor) -> np.ndarray:
    session = runtime.InferenceSession(folder / tower.file, providers=["CPUExecutionProvider"])
    return session.run([tower.output.name], {tower.inputs[0].name: inputs.numpy()})[0]


def encode(backbone: Encoder, modality: str, inputs: Tensor) -> np.ndarray:
    with torch.inference_mode():
        return backbone.encode(modality, inputs).numpy()


def compressed(recipe: str, folder: Path) -> Artifact:
    backbone = build_clip()
    made = build_recipe(recipe, dense_dtype="float16")
    artifact = store(folder / "artifact", made.apply(backbone, [batch_of(backbone)]))
    return Artifact.load(artifact.folder)


def containers(tower: Tower) -> set[str]:
    """Of all that is not tiny."""
    return {row.container for row in tower.rows if row.bytes > 512}


@pytest.mark.parametrize("family", ["hf/clip", "custom"])
def test_dense(family: str, tmp_path: Path) -> None:
    backbone = FAMILIES[family].build(tmp_path)
    assert isinstance(backbone, Encoder)
    batch = batch_of(backbone)
    towers = write_dense_towers(backbone, tmp_path)
    assert [tower.modality for tower in towers] == ["image", "text"]
    for tower in towers:
        assert containers(tower) == {"float32"}
        inputs = batch[tower.modality]
        assert tower.inputs[0].shape[0] is None
        assert tower.output.shape[1] == encode(backbone, tower.modality, inputs).shape[1]
        longer = [torch.cat([inputs, inputs], dim=1)[:5]] if tower.modality == "text" else []
        for given in (inputs, inputs[:1], *longer):
            expected = encode(backbone, tower.modality, given)
            np.testing.assert_allclose(run(tmp_path, tower, given), expected, atol=CLOSE)


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        ("int2", {"MatMulNBits 4 bits, blocks of 32", "4-bit codes"}),
        ("lowrank_int8", {"MatMulNBits 8 bits, blocks of 64", "8-bit codes"}),
        ("cluster", {"Gather of 16 entries"}),
    ],
)
def test_weights_are_exact(recipe: str, expected: set[str], tmp_path: Path) -> None:
    artifact = compressed(recipe, tmp_path)
    before = {name: tensor.clone() for name, tensor in artifact.backbone.named_parameters()}
    batch = batch_of(artifact.backbone)
    for tower in write_towers(artifact, tmp_path):
        assert all(row.exact for row in tower.rows)
        assert not tower.rounds_inputs
        inputs = batch[tower.modality]
        expects = encode(artifact.backbone, tower.modality, inputs)
        np.testing.assert_allclose(run(tmp_path, tower, inputs), expects, atol=1e-4)
    assert expected <= containers(tower), containers(tower)
    after = dict(artifact.backbone.named_parameters())
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("recipe", "activations", "scale"), [("int8", "int8", "tensor"), ("w8a8", None, "token")]
)
def test_integer_inputs(recipe: str, activations: str | None, scale: str, tmp_path: Path) -> None:
    artifact = compressed(recipe, tmp_path)
    batch = batch_of(artifact.backbone)
    for tower in write_towers(artifact, tmp_path, activations=activations):
        assert tower.rounds_inputs
        assert f"MatMulInteger, inputs int8 per {scale}" in containers(tower)
        inputs = batch[tower.modality]
        found = run(tmp_path, tower, inputs)
        cosine = (found * encode(artifact.backbone, tower.modality, inputs)).sum(axis=1)
        assert 0.999 < cosine.mean() < 1.0001


def test_inputs_between_fixed_ends(tmp_path: Path) -> None:
    """As in floats, and an item's embedding does not depend on its batch."""
    artifact = compressed("int8", tmp_path)
    assert isinstance(artifact.backbone, Encoder)
    batch = batch_of(artifact.backbone)
    ranges = input_ranges(artifact.backbone, [batch])
    towers = write_towers(artifact, tmp_path, activations="static_int8", ranges=ranges)
    for tower in towers:
        assert tower.rounds_inputs
        assert "DequantizeLinear, inputs int8 of a fixed range" in containers(tower)
        inputs = batch[tower.modality]
        found = run(tmp_path, tower, inputs)
        with rounded_inputs(artifact.backbone.model, ranges):
            expects = encode(artifact.backbone, tower.modality, inputs)
        assert (found * expects).sum(axis=1).min() > 0.9999
        np.testing.assert_allclose(run(tmp_path, tower, inputs[:1]), found[:1], atol=CLOSE)


def test_no_layer_rounds_its_inputs(tmp_path: Path) -> None:
    artifact = compressed("cluster", tmp_path)
    with pytest.raises(ValueError, match="no layer of this artifact can round its inputs: none"):
        write_towers(artifact, tmp_path, activations="static_int8", ranges={})


def test_large_tensors_lie_beside_the_graph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "LARGEST_FILE", 10_000)
    backbone = FAMILIES["mlp"].build(tmp_path)
    assert isinstance(backbone, Encoder)
    (tower,) = write_dense_towers(backbone, tmp_path)
    assert (tmp_path / "image.onnx.data").stat().st_size > 10_000
    inputs = batch_of(backbone)["image"]
    expected = encode(backbone, "image", inputs)
    np.testing.assert_allclose(run(tmp_path, tower, inputs), expected, atol=CLOSE)


def test_no_such_activations(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, {}, copy.copy(build_clip()))
    with pytest.raises(ValueError, match="activations='int4' must be int8, static_int8, or left"):
        write_towers(artifact, tmp_path, activations="int4")


def test_what_cannot_be_traced_is_refused_in_one_sentence(tmp_path: Path) -> None:
    backbone = FAMILIES["llava"].build(tmp_path)
    with pytest.raises(ValueError, match=r"cannot be written as an ONNX graph .*run the artifact"):
        write_dense_towers(backbone, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(recipe: str, tmp_path: Path) -> None:
    artifact = compressed(recipe, tmp_path)
    batch = batch_of(artifact.backbone)
    for tower in write_towers(artifact, tmp_path):
        inputs = batch[tower.modality]
        found = run(tmp_path, tower, inputs)
        expects = encode(artifact.backbone, tower.modality, inputs)
        if tower.rounds_inputs:
            assert (found * expects).sum(axis=1).mean() > 0.999
        else:
            np.testing.assert_allclose(found, expects, atol=1e-4)
