"""The worked examples run as their README says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmcompress.system.locations import project_path

OWN_MODEL = Path(__file__).parents[1] / "examples" / "own_model"


def run(*command: str, cwd: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(OWN_MODEL), "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_model_of_your_own(tmp_path: Path) -> None:
    own = ["--config-dir", str(OWN_MODEL), "backbone=own_model"]
    short = ["trainer.max_steps=2", "logger=none", "evaluation.latency.batch_sizes=[1]"]
    folder = f"run_dir={tmp_path / 'run'}"
    train = str(project_path("train.py"))
    run(train, *own, "compression=magnitude_int4", *short, folder, cwd=tmp_path)
    artifact = str(tmp_path / "run" / "artifact")
    ledger = run("-m", "mmcompress.cli", "inspect", artifact, *own, cwd=tmp_path)
    assert "codes" in ledger
    scores = run("-m", "mmcompress.cli", "evaluate", artifact, *own, cwd=tmp_path)
    assert "retrieval/mean_r@1" in scores
