"""A reader written from docs/format.md alone gives the same values as mmcompress."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmcompress.artifact.folder import Artifact
from tests.artifact.conftest import KINDS, encode_as, make_backbone
from tests.format.specified_reader import read_artifact


@pytest.mark.parametrize("most_bytes", [10**9, 20_000])
def test_it_reads_every_codec(tmp_path: Path, most_bytes: int) -> None:
    backbone = make_backbone()
    torch.manual_seed(0)
    state = backbone.model.state_dict()
    keys = [target.name for target in backbone.targets() if target.role != "position"]
    encodings = {key: encode_as(kind, state[key]) for key, kind in zip(keys, KINDS, strict=False)}
    assert len(encodings) == len(KINDS)
    artifact = Artifact.save(
        tmp_path / "artifact",
        backbone,
        structure=[],
        encodings=encodings,
        reasons={},
        dense_bytes=1,
        dense_parameters=1,
        run={},
        most_bytes=most_bytes,
    )
    assert (len(artifact.manifest["files"]) > 1) == (most_bytes < 10**9)
    found = dict(read_artifact(artifact.folder))
    assert found.keys() == state.keys()
    for key, values in found.items():
        assert np.array_equal(values, state[key].numpy()), key


FIXTURE = Path(__file__).parents[1] / "fixtures" / "artifacts_0_1" / "recipe_deep" / "artifact"


def test_it_reads_what_a_recipe_makes(tmp_path: Path) -> None:
    """All of it in half precision, entropy coded."""
    loaded = Artifact.load(FIXTURE).backbone
    saved = Artifact.save(
        tmp_path / "artifact",
        loaded,
        structure=[],
        encodings={},
        reasons={},
        dense_bytes=1,
        dense_parameters=1,
        run={},
    )
    state = loaded.model.state_dict()
    for key, values in read_artifact(saved.folder):
        assert np.array_equal(values, state[key].numpy()), key
