"""The worked examples run as their README says."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from mmcompress.artifact.folder import Artifact
from mmcompress.system.locations import project_path
from mmcompress.testing import check_backbone, check_method

EXAMPLES = Path(__file__).parents[1] / "examples"
OWN_MODEL, OWN_METHOD = EXAMPLES / "own_model", EXAMPLES / "own_method"


def run(*command: str, cwd: Path) -> str:
    own = f"{OWN_MODEL}{os.pathsep}{OWN_METHOD}"
    environment = os.environ | {"PYTHONPATH": own, "WANDB_MODE": "offline"}
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_model_of_your_own(tmp_path: Path) -> None:
    own = ["--config-dir", str(OWN_MODEL), "backbone=own_model"]
    short = [
        "trainer.max_steps=2",
        "logger=none",
        "deployed=null",
        "evaluation.latency.batch_sizes=[1]",
    ]
    folder = f"run_dir={tmp_path / 'run'}"
    train = str(project_path("train.py"))
    run(train, *own, "compression=magnitude_int4", *short, folder, cwd=tmp_path)
    artifact = str(tmp_path / "run" / "artifact")
    ledger = run("-m", "mmcompress.cli", "inspect", artifact, *own, cwd=tmp_path)
    assert "codes" in ledger
    scores = run("-m", "mmcompress.cli", "evaluate", artifact, *own, cwd=tmp_path)
    assert "retrieval/mean_r@1" in scores


@pytest.mark.slow
@pytest.mark.parametrize(("name", "payload"), [("root_wanda", "mask"), ("nf4", "codebook")])
def test_methods_of_your_own(name: str, payload: str, tmp_path: Path) -> None:
    """Their artifacts load without the files that define them."""
    own = ["--config-dir", str(OWN_METHOD), f"compression={name}"]
    short = [
        "trainer.max_steps=2",
        "logger=none",
        "deployed=null",
        "evaluation.latency.batch_sizes=[1]",
    ]
    train = str(project_path("train.py"))
    run(train, *own, *short, f"run_dir={tmp_path / 'run'}", cwd=tmp_path)
    small = Artifact.load(tmp_path / "run" / "artifact")
    assert payload in {row.payload for row in small.ledger()}
    assert small.size_summary()["compression_ratio"] > 2


@pytest.mark.parametrize("name", ["root_wanda", "nf4"])
def test_methods_of_your_own_keep_the_contract(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OWN_METHOD))
    config = OmegaConf.load(OWN_METHOD / "compression" / f"{name}.yaml")
    assert not any(check_method(config).values())


def test_a_model_of_your_own_keeps_the_contract(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OWN_MODEL))
    backbone = instantiate(OmegaConf.load(OWN_MODEL / "backbone" / "own_model.yaml"))
    assert not any(check_backbone(backbone).values())


def test_levels_of_nf4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(OWN_METHOD))
    nf4 = importlib.import_module("nf4")
    levels = nf4.normal_levels().tolist()
    # Appendix E of arXiv:2305.14314; 5e-4 is half a step of float16 below 1.
    paper = [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0]
    paper += [0.0796, 0.1609, 0.2461, 0.3379, 0.4407, 0.5626, 0.7230, 1.0]
    assert levels == pytest.approx(paper, abs=5e-4)
    weight = torch.tensor([[2.0, 0.16, -1.1, 0.0], [0.0, 0.0, 0.0, 0.0]])
    rounded = nf4.FakeNF4(weight, group_size=4)(weight)
    assert rounded[0].tolist() == [2.0, 2 * levels[8], 2 * levels[2], 0.0]
    assert rounded[1].tolist() == [0.0] * 4
