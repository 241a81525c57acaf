"""A finished run, as loggers get it."""

import json
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from mmcompress.artifact.folder import Artifact
from mmcompress.artifact.ledger import LedgerRow
from mmcompress.tracking.results import Results
from tests.report.conftest import MakeRecord, _make_record, as_record, ledger

__all__ = ["_make_record", "ledger", "results"]


@pytest.fixture
def results(make_record: MakeRecord, ledger: list[LedgerRow], tmp_path: Path) -> Results:
    """A run at an eighth of the bytes, beside one at a quarter that is more accurate."""
    record = as_record(make_record("int4", ratio=8.0, recall=0.86))
    record.config["name"] = "int4"
    record.dense_sha256 = "d" * 64
    folder = tmp_path / "artifact"
    folder.mkdir()
    stored = {"name": "model.safetensors", "sha256": "a" * 64}
    manifest = {"adapter": "x", "spec": {}, "dense": {}, "files": [stored]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "model.safetensors").write_bytes(b"weights")
    plot = tmp_path / "plot.png"
    Figure(figsize=(1, 1)).savefig(plot)
    plan = {"int4": {"q.weight": {"bits": 4}, "k.weight": {"left_dense": "too small"}}}
    siblings = [record, as_record(make_record("int8", ratio=4.0, recall=0.87))]
    artifact = Artifact(folder, manifest, backbone=None)  # type: ignore[arg-type]
    return Results(record, siblings, artifact, ledger, plan, plot)
