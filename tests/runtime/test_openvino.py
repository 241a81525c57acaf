"""Exports for OpenVINO: the integers of the artifact, the embeddings of its dense decode."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mmcompress as mmc
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.capabilities import Encoder
from mmcompress.compression.quantization.integer import Integer
from mmcompress.compression.recipe import Recipe
from mmcompress.exports.rounding import input_ranges, rounded_inputs
from mmcompress.exports.targets import export
from mmcompress.inputs.export import NotAnExport
from mmcompress.runtime.dense import DenseModel
from mmcompress.runtime.onnx import OnnxModel
from mmcompress.runtime.openvino import OpenVINOModel
from mmcompress.testing.zoo.family import batch_of
from mmcompress.testing.zoo.hf import build_clip

pytest.importorskip("onnxscript")
pytest.importorskip("openvino")

CLOSE = 1e-5
TEXTS = ["red cat", "blue dog and a green tree", "word7 " * 50]


def stored(folder: Path, step: Integer) -> Artifact:
    return Artifact.load(Recipe({"s": step}).apply(build_clip(), []).save(folder / "small").folder)


@pytest.fixture
def pictures() -> list[Image.Image]:
    noise = np.random.default_rng(0)
    sizes = [(48, 32, 3), (33, 61, 4), (32, 32, 3)]
    return [Image.fromarray(noise.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


def test_four_bits(tmp_path: Path, pictures: list[Image.Image]) -> None:
    artifact = stored(tmp_path, Integer(bits=4, group_size=16))
    done = export(artifact, "openvino", tmp_path / "out")
    assert any(line.startswith("u4: ") for line in done.containers)
    dense, model = mmc.load(artifact.folder), OpenVINOModel(tmp_path / "out", threads=1)
    images, texts = model.embed_images(pictures, batch_size=2), model.embed_texts(TEXTS)
    np.testing.assert_allclose(images, dense.embed_images(pictures).numpy(), atol=CLOSE)
    np.testing.assert_allclose(texts, dense.embed_texts(TEXTS).numpy(), atol=CLOSE)
    again = mmc.load(tmp_path / "out", runtime="openvino").embed_texts(TEXTS)
    torch.testing.assert_close(again, torch.from_numpy(texts), rtol=0, atol=CLOSE)
    files = json.loads((tmp_path / "out" / "manifest.json").read_bytes())["files"]
    assert {"image.xml", "image.bin", "text.xml", "text.bin"} <= files.keys()
    with pytest.raises(NotAnExport, match="is for openvino and not for onnx: load it with runt"):
        OnnxModel(tmp_path / "out")


def test_inputs_between_fixed_ends(tmp_path: Path, pictures: list[Image.Image]) -> None:
    """int8 codes stay, and `FakeQuantize` stands before each product: kernels multiply integers."""
    import openvino

    artifact = stored(tmp_path, Integer(bits=8))
    assert isinstance(artifact.backbone, Encoder)
    batches = [batch_of(artifact.backbone)]
    done = export(
        artifact, "openvino", tmp_path / "out", activations="static_int8", batches=batches
    )
    assert any(line.startswith("i8: ") for line in done.containers)
    graph = openvino.Core().read_model(tmp_path / "out" / "image.xml")
    kinds = [node.get_type_name() for node in graph.get_ordered_ops()]
    # Patches, projection, and of both blocks: one that q, k and v share, and those of three layers.
    assert kinds.count("FakeQuantize") == 2 + 2 * 4
    ran = openvino.Core().compile_model(graph, "CPU").get_runtime_model().get_ordered_ops()
    layers = [
        node for node in ran if node.get_rt_info()["layerType"].astype(str) == "FullyConnected"
    ]
    kernels = [node.get_rt_info()["runtimePrecision"].astype(str) for node in layers]
    assert len(kernels) == 2 + 2 * 6
    assert set(kernels) <= {"i8", "u8"}
    ranges = input_ranges(artifact.backbone, batches, centered=True)
    model = OpenVINOModel(tmp_path / "out", threads=1)
    with rounded_inputs(artifact.backbone.model, ranges):
        expected = DenseModel(artifact.backbone).embed_images(pictures).numpy()
    assert (model.embed_images(pictures) * expected).sum(axis=1).min() > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("bits", [2, 3, 8])
def test_the_other_process(bits: int, tmp_path: Path) -> None:
    artifact = stored(tmp_path, Integer(bits=bits))
    done = export(artifact, "openvino", tmp_path / "out", test=True)
    assert done.difference is not None
    assert max(done.difference.largest.values()) < CLOSE


@pytest.mark.slow
def test_an_artifact_is_exported_when_it_is_loaded(tmp_path: Path) -> None:
    artifact = stored(tmp_path, Integer(bits=8))
    found = mmc.load(artifact.folder, runtime="openvino").embed_texts(TEXTS)
    expected = mmc.load(artifact.folder).embed_texts(TEXTS)
    torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE)
