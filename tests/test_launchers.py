"""Sweeps whose runs are spread by Hydra's launchers (extra `sweep`)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher

from mmcompress.sweeps.outcome import Outcome, outcomes
from mmcompress.system.locations import project_path

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SMALL = [
    "logger=none",
    "deployed=null",
    "data.calibration_size=32",
    "evaluation.latency.batch_sizes=[1]",
    "+evaluation.latency.seconds=0.1",
    "trainer=post_training",
]
PACKAGES = {
    "cores": "hydra_plugins.hydra_joblib_launcher",
    "ray_local": "hydra_plugins.hydra_ray_launcher",
    "submitit_local": "hydra_plugins.hydra_submitit_launcher",
}


def sweep(launcher: str, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`python train.py -m` in `folder`."""
    pytest.importorskip(PACKAGES[launcher], reason="pip install 'mmcompress[sweep]'")
    environment = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    command = [str(project_path("train.py").resolve()), "-m", f"hydra/launcher={launcher}", *SMALL]
    return subprocess.run(
        [sys.executable, *command, *overrides],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )


@pytest.mark.parametrize("launcher", PACKAGES)
def test_two_runs_of_a_sweep(launcher: str, tmp_path: Path) -> None:
    done = sweep(launcher, tmp_path, "compression=int8,int4")
    assert done.returncode == 0, done.stderr
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("run.json")]
    assert {record["config"]["name"] for record in records} == {"int8", "int4"}
    assert {record["status"] for record in records} == {"finished"}
    assert "2 jobs, 2 finished, 0 skipped, 0 failed" in done.stdout


def test_a_run_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    """Jobs of `cores` share two processes; a third run follows the one that fails."""
    sizes = "compression.steps.int4.group_size=10,32,64"
    done = sweep("cores", tmp_path, "compression=int4", sizes)
    assert done.returncode != 0
    assert "3 jobs, 2 finished, 0 skipped, 1 failed" in done.stdout
    records = [json.loads(path.read_text()) for path in tmp_path.rglob("run.json")]
    (failed,) = [record for record in records if record["status"] == "failed"]
    assert "group_size=10 does not divide" in failed["error"]


APP = """
import os, signal
from pathlib import Path
import hydra

@hydra.main(config_path="conf", config_name="config", version_base="1.3")
def main(cfg):
    if cfg.x == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    Path(f"{cfg.x}.done").touch()

main()
"""


def test_a_worker_that_is_killed_takes_no_other_job_along(tmp_path: Path) -> None:
    """As a machine without memory does; the second of four jobs in two processes."""
    pytest.importorskip(PACKAGES["cores"], reason="pip install 'mmcompress[sweep]'")
    (tmp_path / "app.py").write_text(APP)
    launchers = tmp_path / "conf" / "hydra" / "launcher"
    launchers.mkdir(parents=True)
    shutil.copy(project_path("conf") / "hydra" / "launcher" / "cores.yaml", launchers)
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults: [_self_, {override hydra/launcher: cores}]\nx: 0\n"
        "hydra: {output_subdir: null, sweep: {dir: ., subdir: .}}\n"
    )
    notes = tmp_path / "notes"
    done = subprocess.run(
        [sys.executable, "app.py", "-m", "x=1,2,3,4", f"hydra.launcher.notes={notes}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.glob("*.done")) == ["1.done", "3.done", "4.done"]
    (outcome,) = outcomes(notes)
    assert outcome == Outcome(Path("x=2"), "failed", "its process was ended by SIGKILL(-9)")


def test_slurm_gets_a_task_per_process() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install '.[sweep]'")
    assert Plugins.instance().discover(Launcher)
    with initialize_config_dir(str(project_path("conf").resolve()), version_base="1.3"):
        overrides = ["hydra/launcher=slurm", "trainer=ddp", "trainer.devices=4"]
        cfg = compose("train", [*overrides, "trainer.num_nodes=2"], return_hydra_config=True)
        launcher = cfg.hydra.launcher
        assert (launcher.nodes, launcher.tasks_per_node) == (2, 4)
        cfg = compose("train", ["hydra/launcher=slurm"], return_hydra_config=True)
        assert (cfg.hydra.launcher.nodes, cfg.hydra.launcher.tasks_per_node) == (1, 1)
