"""Artifacts that 0.1 wrote load for good, with the weights and embeddings of then."""

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch

from mmcompress.artifact.folder import Artifact
from mmcompress.testing.zoo.families import FAMILIES


def _load_reference() -> ModuleType:
    path = Path(__file__).parents[1] / "fixtures" / "artifacts_0_1" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference_0_1", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load_reference()


@pytest.mark.parametrize("name", reference.NAMES)
def test_loads_with_the_weights_and_embeddings_of_then(name: str, tmp_path: Path) -> None:
    expected = reference.read_expected(name)
    build_own = partial(FAMILIES["custom"].build, tmp_path)  # its code is the user's
    artifact = Artifact.load(reference.FOLDER / name / "artifact", skeleton=build_own)
    state = artifact.backbone.model.state_dict()
    assert {key: reference.checksum(tensor) for key, tensor in state.items()} == expected["state"]
    inputs = reference.build_inputs(expected["inputs"])
    for modality, embedding in expected["embeddings"].items():
        with torch.no_grad():
            found = artifact.backbone.encode(modality, inputs[modality])
        # Sums of float32 in another order, on another processor.
        torch.testing.assert_close(found, torch.tensor(embedding), rtol=0, atol=2e-5)
    assert sum(row.bytes for row in artifact.ledger()) == artifact.bytes


def test_every_recipe_and_family_of_then_is_there() -> None:
    kinds = [name.partition("_")[0] for name in reference.NAMES]
    assert kinds.count("recipe") == 43
    assert kinds.count("family") == 29
    assert len(reference.NAMES) >= 104
