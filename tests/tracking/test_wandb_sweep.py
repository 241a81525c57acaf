"""W&B's own sweeps, as far as one comes without its server."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
import yaml

from mmcompress.config.compose import compose_config
from mmcompress.sweeps.job import as_job
from mmcompress.system.locations import project_path
from mmcompress.tracking.wandb_sweep import main

SWEEPS = sorted(project_path("conf").glob("sweep/wandb_*.yaml"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Runs the command with a login; the result is what W&B was asked to do."""
    asked: dict[str, Any] = {}

    def sweep(config: dict[str, Any], **where: Any) -> str:
        asked["sweep"] = config, where
        return "abc123"

    def agent(command: list[str], **options: Any) -> SimpleNamespace:
        asked["agent"] = command[1:]
        return SimpleNamespace(returncode=0)

    def run(*arguments: str) -> dict[str, Any]:
        monkeypatch.setattr(wandb, "sweep", sweep)
        monkeypatch.setattr(subprocess, "run", agent)
        monkeypatch.setattr(sys, "argv", ["wandb_sweep.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return asked | {"code": ended.value.code}

    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    return run


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_a_sweep_is_created_and_run(path: Path, run) -> None:
    asked = run(str(path), "--entity", "me", "--count", "3")
    config, where = asked["sweep"]
    assert config["program"] == str(project_path("train.py").resolve())
    assert where == {"entity": "me", "project": "mmcompress"}
    assert asked["agent"] == ["-m", "wandb", "agent", "--count", "3", "me/mmcompress/abc123"]
    assert asked["code"] == 0


def test_a_sweep_that_is_there_gets_another_agent(run) -> None:
    asked = run("abc123")
    assert "sweep" not in asked
    assert asked["agent"] == ["-m", "wandb", "agent", "mmcompress/abc123"]


def test_a_login_is_needed(run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    assert run("abc123")["code"].startswith("error: W&B's sweeps need its server")


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_what_a_sweep_proposes_composes(path: Path) -> None:
    sweep = yaml.safe_load(path.read_text())
    fixed = [word for word in sweep["command"] if not word.startswith("${")]
    for place in ("values", "min", "max"):
        proposed = {
            key: given[place][0] if place == "values" else given[place]
            for key, given in sweep["parameters"].items()
            if place in given
        }
        cfg = compose_config(*fixed, *(f"{key}={value}" for key, value in proposed.items()))
        assert "retrieval" in cfg.evaluation.evaluators
    assert sweep["metric"] == {"name": "retrieval/mean_r@1", "goal": "maximize"}


def test_hydra_does_not_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"sweep": "wandb_lowrank_int8"}
    monkeypatch.setattr("mmcompress.config.job.choices", lambda: chosen)
    job = as_job(lambda cfg: pytest.fail("it was run"))
    with pytest.raises(SystemExit) as ended:
        job(compose_config("sweep=wandb_lowrank_int8"))
    assert ended.value.code == (
        "error: W&B's server runs sweep=wandb_lowrank_int8: "
        "python scripts/wandb_sweep.py conf/sweep/wandb_lowrank_int8.yaml"
    )
