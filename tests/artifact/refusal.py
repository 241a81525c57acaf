"""What the tests of bad artifacts share: names in the forged ones, and that each is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcompress.artifact.folder import Artifact
from mmcompress.format.errors import ArtifactError

Forge = Callable[..., Any]

FC1 = "vision_model.encoder.layers.0.mlp.fc1.weight"
MLP = "vision_model.encoder.layers.0.mlp"
LOWRANK = "mmcompress.compression.lowrank.lowrank.LowRank"
BIAS = "vision_model.encoder.layers.0.mlp.fc1.bias"
EMBEDDING = "text_model.embeddings.token_embedding.weight"
FC2 = "vision_model.encoder.layers.0.mlp.fc2.weight"
OTHER = "vision_model.encoder.layers.1.mlp.fc1.weight"
BLOCKS = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
DENSE = "dense.float32.planes"
CLUSTERED = {FC1: "cluster", FC2: "cluster", OTHER: "cluster"}
KIND = {"steps": ["int4"], "chain": [], "payloads": {"codes": "float32"}}
PRUNED = {FC1: "pruned+int8", EMBEDDING: "pruned+cluster"}


def refuse(folder: Path, message: str) -> None:
    """Both readers refuse with `message`, which names the file and says what to do."""
    for read in (Artifact.load, Artifact.read):
        with pytest.raises(ArtifactError, match=message) as caught:
            read(folder)
        assert str(folder) in str(caught.value)
        assert ";" in str(caught.value)
