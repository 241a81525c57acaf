"""Signals to whole runs: the code says that it did not end well, and one line how to go on."""

import json
import signal
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

OPTIONS = ("trainer.max_steps=30", "callbacks.checkpoint.every_n_train_steps=5")


@pytest.mark.parametrize(
    ("stage", "by", "code"),
    [
        ("calibrate_s", signal.SIGINT, 130),
        ("fit_s", signal.SIGTERM, 143),
        ("fit_s", signal.SIGINT, 130),
        ("save_s", signal.SIGTERM, 143),
        ("evaluate_s", signal.SIGINT, 130),
        ("report_s", signal.SIGTERM, 143),
    ],
)
def test_a_run_says_that_it_was_interrupted_and_goes_on(
    train, mlp, tmp_path: Path, stage: str, by: signal.Signals, code: int
) -> None:
    command = [*mlp, *OPTIONS, "run_dir=run"]
    ((found, output),) = train(command, kill=(stage, 0.0), by=by)
    assert found == code, output
    assert "Traceback" not in output
    assert output.splitlines()[-1] == f"interrupted by {by.name}: the same command goes on"
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    status = "scored" if stage == "report_s" else "interrupted"
    assert (record["status"], record["error"]) == (status, f"interrupted by {by.name}")
    assert not (tmp_path / "run" / "traceback.txt").exists()

    if by is signal.SIGTERM:
        ((found, output),) = train(command)
        assert found == 0, output
        record = json.loads((tmp_path / "run" / "run.json").read_text())
        assert (record["status"], record["starts"]) == ("finished", 2)


def test_a_run_without_a_name_says_which_to_give(train, mlp) -> None:
    ((_, output),) = train([*mlp, *OPTIONS], kill=("fit_s", 0.0), by=signal.SIGTERM)
    assert "the same command goes on when it names run_dir=runs/" in output.splitlines()[-1]


def test_a_signal_ends_a_whole_sweep(train, mlp, tmp_path: Path) -> None:
    command = ["-m", *mlp, *OPTIONS, "compression=int8,int4", "hydra.sweep.dir=grid"]
    ((code, output),) = train(command, kill=("fit_s", 0.0), by=signal.SIGTERM)
    assert code == 143, output
    assert "Traceback" not in output
    assert "interrupted by SIGTERM: the same command goes on" in output
    (record,) = [json.loads(path.read_text()) for path in tmp_path.glob("grid/*/run.json")]
    assert record["status"] == "interrupted"
    ((code, output),) = train(command)
    assert code == 0, output
    assert "sweep grid: 2 jobs, 2 finished, 0 skipped, 0 failed" in output
