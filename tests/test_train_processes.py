"""The main job on two processes, started in each way there is, against one process."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mmcompress.artifact.folder import Artifact
from mmcompress.system.locations import project_path
from mmcompress.training.module import calibrated_in
from tests.system.test_distributed import free_port

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TRAIN = str(project_path("train.py").resolve())
TIMEOUT = 900

# Three batches of calibration: one of two processes has nothing to do in the last round.
SMALL = [
    "logger=none",
    "deployed=null",
    "data.augment=false",
    "data.calibration_size=40",
    "data.eval_batch_size=16",
    "evaluation.latency.batch_sizes=[1]",
    "+evaluation.latency.seconds=0.1",
]
POST_TRAINING = [*SMALL, "compression=lowrank_int8", "trainer=post_training"]
STEPS, LR = 2, 1e-4
TRAINING = [
    *SMALL,
    "compression=lowrank_int8",
    f"trainer.max_steps={STEPS}",
    f"optimizer.lr={LR}",
    "trainer.precision=32-true",
    "callbacks.checkpoint.every_n_train_steps=1",
]

Run = Callable[..., list[subprocess.CompletedProcess[str]]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Start command lines at once, each with its environment, and wait for all."""
    folder = tmp_path_factory.mktemp("processes")
    shared = {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": str(ROOT)}

    def start(*commands: list[str], environments: list[dict[str, str]] | None = None):
        started = [
            subprocess.Popen(
                [sys.executable, *command],
                cwd=folder,
                env=os.environ | shared | environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for command, environment in zip(commands, environments or [{}], strict=True)
        ]
        try:
            outputs = [process.communicate(timeout=TIMEOUT) for process in started]
        finally:
            for process in started:
                process.kill()
        return [
            subprocess.CompletedProcess(p.args, p.returncode, *output)
            for p, output in zip(started, outputs, strict=True)
        ]

    return start


def assert_finished(done: list[subprocess.CompletedProcess[str]]) -> None:
    assert [one.returncode for one in done] == [0] * len(done), "\n".join(d.stderr for d in done)


@pytest.fixture(scope="module")
def stored_alone(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert_finished(run([TRAIN, *POST_TRAINING, f"run_dir={folder}"]))
    return folder


def by_lightning(run: Run, overrides: list[str]) -> list[subprocess.CompletedProcess[str]]:
    return run(["-m", "mmcompress.cli", "train", *overrides, "trainer.devices=2"])


def by_torchrun(run: Run, overrides: list[str]) -> list[subprocess.CompletedProcess[str]]:
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]
    return run([*torchrun, TRAIN, *overrides, "trainer.devices=2"])


def by_slurm(run: Run, overrides: list[str]) -> list[subprocess.CompletedProcess[str]]:
    """What `srun` tells its two tasks."""
    job = {
        "SLURM_JOB_ID": "1",
        "SLURM_JOB_NAME": "test",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODELIST": "127.0.0.1",
        "SLURM_NODEID": "0",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    tasks = [job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)} for i in range(2)]
    command = [TRAIN, *overrides, "trainer.devices=2"]
    return run(command, command, environments=tasks)


@pytest.mark.parametrize("start", [by_lightning, by_torchrun, by_slurm])
def test_two_processes_store_the_bytes_of_one(
    start: Callable[..., list], stored_alone: Path, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    done = start(run, [*POST_TRAINING, f"run_dir={folder}"])
    assert_finished(done)
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "written once"
    ours, expected = folder / "artifact", stored_alone / "artifact"
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == names
    for name in names:
        assert (ours / name).read_bytes() == (expected / name).read_bytes(), name
    record, alone = (json.loads((f / "run.json").read_text()) for f in (folder, stored_alone))
    assert record["metrics"] == alone["metrics"]
    shown = "".join(one.stdout for one in done)
    assert shown.count("artifact: ") == 1
    assert shown.count("int8: ") == 1, "the second process keeps quiet"


@pytest.fixture(scope="module")
def trained_alone(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert_finished(run([TRAIN, *TRAINING, "data.batch_size=16", f"run_dir={folder}"]))
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_as_one(
    strategy: str, trained_alone: Path, run: Run, tmp_path: Path
) -> None:
    """Half a batch each; the plan is the same, and weights are by the order of sums alone."""
    folder = tmp_path / "run"
    split = ["trainer=ddp_cpu", f"trainer/strategy={strategy}", "data.batch_size=8"]
    assert_finished(run([TRAIN, *split, *TRAINING, f"run_dir={folder}"]))
    checkpoint = "checkpoints/last.ckpt"
    assert calibrated_in(folder / checkpoint) == calibrated_in(trained_alone / checkpoint)
    ours, expected = (Artifact.load(f / "artifact") for f in (folder, trained_alone))
    assert ours.manifest["structure"] == expected.manifest["structure"]
    found = ours.backbone.state_dict()
    for key, tensor in expected.backbone.state_dict().items():
        difference = (found[key] - tensor).abs()
        # A weight in the middle of two levels may fall to either, and one whose gradient is all
        # rounding error moves by the learning rate in either direction.
        assert difference.max() <= tensor.abs().max() / 127 + STEPS * 2 * LR, key
        if tensor.ndim > 1:
            assert difference.float().mean() <= 0.01 * tensor.abs().float().mean(), key

    # Cut short, both go on from the checkpoint that the first finds in its folder.
    again = tmp_path / "again"
    shutil.copytree(folder, again, ignore=shutil.ignore_patterns("run.json"))
    assert_finished(run([TRAIN, *split, *TRAINING, f"run_dir={again}"]))
    assert f"going on from {again / checkpoint}" in (again / "run.log").read_text()
    for name in ("model.safetensors", "manifest.json"):
        assert (again / "artifact" / name).read_bytes() == (folder / "artifact" / name).read_bytes()


def test_a_process_that_fails_ends_the_others(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    fails = ["data._target_=tests.fails_in_second.FailsInSecond"]
    (done,) = by_lightning(run, [*POST_TRAINING, *fails, f"run_dir={folder}"])
    assert done.returncode != 0
    assert "error: the second process has no data" in done.stderr
    assert "error: another process of this run has ended" in done.stderr
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    assert not (folder / "artifact").exists()
