"""What a model costs in ONNX Runtime, and what is said where nothing can be measured."""

from pathlib import Path

import pytest
import torch

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.compression.recipe import Recipe
from mmcompress.data.base import PairData
from mmcompress.records.read import typed
from mmcompress.records.record import RunRecord
from mmcompress.records.schema import Deployed
from mmcompress.records.values import summary_values
from mmcompress.runtime import deployment
from mmcompress.runtime.deployment import measure_deployed

PACKAGES = ("onnxruntime", "onnxscript")


def stored(folder: Path, backbone: HFClip) -> Artifact:
    return Artifact.load(Recipe({}).apply(backbone, []).save(folder / "artifact").folder)


def test_both_models_in_turn(
    tiny_backbone: HFClip, tiny_data: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in PACKAGES:
        pytest.importorskip(package)
    monkeypatch.setattr(deployment, "PACKAGES", PACKAGES)
    artifact = stored(tmp_path, tiny_backbone)
    sizes = {"batch_sizes": (1, 4), "seconds": 0.0}
    found = measure_deployed(tiny_backbone, artifact, tiny_data, "test", **sizes)
    assert found["runtime"].startswith("ONNX Runtime 1.")
    assert found["threads"] == torch.get_num_threads()
    for model in ("dense", "compressed"):
        assert list(found[f"{model}_ms"]) == ["1", "4"]
        assert all(0 < ms < 1000 for ms in found[f"{model}_ms"].values())
    parameters = 4 * sum(p.numel() for p in tiny_backbone.parameters())
    assert parameters < found["dense_bytes"] < 3 * parameters + 500_000  # the graph itself is large
    assert found["compressed_bytes"] < found["dense_bytes"]  # floats are stored in 16 bits
    if found["dense_memory_bytes"] is not None:
        assert 100_000 < found["dense_memory_bytes"] < 100_000_000
    record = RunRecord(folder=tmp_path, config={}, deployed=typed(Deployed, found))
    values = summary_values(record)
    assert values["deployed/dense_ms_batch_4"] == found["dense_ms"]["4"]
    assert values["deployed/compressed_bytes"] == found["compressed_bytes"]


def test_without_the_package(tiny_backbone: HFClip, tiny_data: PairData, tmp_path: Path) -> None:
    artifact = stored(tmp_path, tiny_backbone)
    assert measure_deployed(tiny_backbone, artifact, tiny_data, "test") == {
        "not_measured": 'no_package_in_tests is not installed: pip install "mmcompress[onnx]"'
    }


def test_a_model_that_cannot_be_exported(
    tiny_backbone: HFClip, tiny_data: PairData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployment, "PACKAGES", ())
    artifact = stored(tmp_path, tiny_backbone)

    def refuse(self: HFClip, folder: Path) -> dict:
        raise ValueError("it reads tea leaves")

    monkeypatch.setattr(HFClip, "feeding", refuse)
    found = measure_deployed(tiny_backbone, artifact, tiny_data, "test")
    assert [*found] == ["not_measured"]
    assert (
        "cannot be exported (it reads tea leaves): runtime=dense, --to hf" in found["not_measured"]
    )
