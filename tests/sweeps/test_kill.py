"""A run that is killed at any moment and started again ends like one that never was."""

import hashlib
import json
import random
import signal
from pathlib import Path

import pytest

# Calibrates, trains with random augmentation, and stores codes; a checkpoint every third step.
OPTIONS = (
    "compression=lowrank_int8",
    "trainer.max_steps=12",
    "callbacks.checkpoint.every_n_train_steps=3",
    "data.batch_size=32",
    "data.calibration_size=64",
    "evaluation.latency.batch_sizes=[1]",
    "logger=none",
)
# How often in which stage, and within which share of the time that it took when undisturbed.
KILLS = (("calibrate_s", 2, 0.9), ("fit_s", 4, 0.4), ("save_s", 2, 0.9), ("evaluate_s", 2, 0.5))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def checksums(artifact: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in artifact.iterdir()}


@pytest.mark.slow
def test_ten_kills_change_nothing(train, tmp_path: Path) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    ((code, output),) = train([*OPTIONS, f"run_dir={straight}"])
    assert code == 0, output
    expected = json.loads((straight / "run.json").read_text())

    again = [*OPTIONS, f"run_dir={killed}"]
    moments = random.Random(0)
    for stage, times, share in KILLS:
        for _ in range(times):
            seconds = moments.random() * share * expected["timings"][stage]
            ((code, output),) = train(again, kill=(stage, seconds))
            assert code == -signal.SIGKILL, output
            assert not (killed / "run.json").exists(), "the record comes last"
    ((code, output),) = train(again)
    assert code == 0, output
    assert "going on from" in output

    found = json.loads((killed / "run.json").read_text())
    assert found["starts"] == 11
    assert found["metrics"] == expected["metrics"]
    assert found["size"] == expected["size"]
    assert checksums(killed / "artifact") == checksums(straight / "artifact")
    assert files(killed) == files(straight), "something was left behind"
