"""Graphs give what the model gives, for any number of inputs and, where it can, any length."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.capabilities import Encoder
from mmcompress.exports.onnx import Tower, write_towers
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.testing.zoo.family import batch_of

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


@pytest.mark.parametrize("family", ["hf/clip", "custom"])
def test_dense(family: str, tmp_path: Path) -> None:
    backbone = FAMILIES[family].build(tmp_path)
    assert isinstance(backbone, Encoder)
    batch = batch_of(backbone)
    towers = write_towers(Artifact(tmp_path, {}, backbone), tmp_path)
    assert [tower.modality for tower in towers] == ["image", "text"]
    for tower in towers:
        inputs = batch[tower.modality]
        assert tower.inputs[0].shape[0] is None
        assert tower.output.shape[1] == encode(backbone, tower.modality, inputs).shape[1]
        longer = [torch.cat([inputs, inputs], dim=1)[:5]] if tower.modality == "text" else []
        for given in (inputs, inputs[:1], *longer):
            expected = encode(backbone, tower.modality, given)
            np.testing.assert_allclose(run(tmp_path, tower, given), expected, atol=CLOSE)
