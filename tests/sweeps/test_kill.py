"""A run that is killed at any moment and started again ends like one that never was.

    MMCOMPRESS_KILLS=12 python -m pytest -n 0 -m slow tests/sweeps/test_kill.py -k random

kills each recipe at 12 random moments; by default at two.
"""

import hashlib
import json
import os
import random
import shutil
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
    "deployed=null",
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


RANDOM_KILLS = int(os.environ.get("MMCOMPRESS_KILLS", "2"))
SHORT = (
    "trainer.max_steps=24",
    "callbacks.checkpoint.every_n_train_steps=3",
    "data.batch_size=32",
)


def results(folder: Path) -> tuple:
    record = json.loads((folder / "run.json").read_text())
    assert record["status"] == "finished"
    assert (folder / "accuracy_vs_size.png").exists()
    return record["metrics"], record["size"], record["float16"], checksums(folder / "artifact")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["lowrank", "gptq", "deep", "dkm"])
def test_kills_at_random_moments_change_nothing(train, mlp, tmp_path: Path, recipe: str) -> None:
    """Moments are drawn from the time that the undisturbed run took, and one from its report."""
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    command = [*mlp, *SHORT, f"compression={recipe}"]
    ((code, output),) = train([*command, f"run_dir={straight}"])
    assert code == 0, output
    expected = results(straight)
    timings = json.loads((straight / "run.json").read_text())["timings"]
    stages = [name for name in timings if name != "total_s"]
    again = [*command, f"run_dir={killed}"]

    moments = random.Random(recipe)
    chosen = moments.choices(stages, [timings[name] for name in stages], k=RANDOM_KILLS)
    for stage in [*sorted(chosen, key=stages.index), "report_s"]:
        seconds = 0.9 * moments.random() * timings[stage]
        ((code, output),) = train(again, kill=(stage, seconds))
        assert code in (0, -signal.SIGKILL), output
        if code == 0:  # it was faster this time
            assert results(killed) == expected
            shutil.rmtree(killed)
    ((code, output),) = train(again)
    assert code == 0, output
    assert results(killed) == expected
    assert files(killed) == files(straight), "something was left behind"
