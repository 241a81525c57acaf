"""Sweeps as a user meets them: cut short, with jobs that fail, two at a time."""

import json
import signal
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SWEEP = "hydra.sweep.dir=grid"
INT4 = "compression.steps.int4.group_size"


def records(sweep: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(sweep.glob("*/run.json"))]


def last_lines(output: str) -> list[str]:
    lines = output.splitlines()
    (first,) = (number for number, line in enumerate(lines) if line.startswith("sweep "))
    return lines[first:]


def test_a_failed_job_stops_no_other_and_is_repeated_alone(train, mlp, tmp_path: Path) -> None:
    """The second of three settings does not fit the layers."""
    command = ["-m", *mlp, "trainer=post_training", "compression=int4", f"{INT4}=16,10,8", SWEEP]
    ((code, output),) = train(command)
    assert code == 1
    summary, failure, end = last_lines(output)
    assert summary == "sweep grid: 3 jobs, 2 finished, 0 skipped, 1 failed"
    assert failure.startswith("  failed: int4-seed0-")
    assert "group_size=10 does not divide" in failure
    assert end == "error: 1 of 3 jobs failed: the same command repeats them alone"

    by_status: dict[str, list[dict]] = {"finished": [], "failed": []}
    for record in records(tmp_path / "grid"):
        by_status[record["status"]].append(record)
    assert len(by_status["finished"]) == 2
    (failed,) = by_status["failed"]
    assert failed["config"]["compression"]["steps"]["int4"]["group_size"] == 10
    assert failed["error"].startswith("ValueError: group_size=10")
    assert "check_divides" in next((tmp_path / "grid").glob("*/traceback.txt")).read_text()

    ((code, output),) = train(command)
    assert code == 1
    assert last_lines(output)[:2] == [
        "sweep grid: 3 jobs, 0 finished, 2 skipped, 1 failed",
        "  skipped: 2 that had finished before",
    ]
    starts = {
        r["config"]["compression"]["steps"]["int4"]["group_size"]: r["starts"]
        for r in records(tmp_path / "grid")
    }
    assert starts == {16: 1, 10: 2, 8: 1}


def test_a_sweep_that_was_killed_goes_on_from_its_checkpoint(train, mlp, tmp_path: Path) -> None:
    """Its own folder is found without being named, whatever the order of the command line."""
    options = [*mlp, "trainer.max_steps=4", "callbacks.checkpoint.every_n_train_steps=2"]
    swept = ["compression=int8,int4", "seed=1,2"]
    ((code, _),) = train(["-m", *options, *swept], kill=("save_s", 0.0))
    assert code == -signal.SIGKILL
    (sweep,) = (tmp_path / "runs" / "sweeps").iterdir()
    assert records(sweep) == []

    ((code, output),) = train(["-m", *reversed(swept), *options])
    assert code == 0, output
    assert output.count("going on from") == 1
    assert last_lines(output)[0].endswith(": 4 jobs, 4 finished, 0 skipped, 0 failed")
    assert list((tmp_path / "runs" / "sweeps").iterdir()) == [sweep]
    assert Counter(record["starts"] for record in records(sweep)) == {1: 3, 2: 1}


def test_two_sweeps_into_one_folder_share_the_work(train, mlp, tmp_path: Path) -> None:
    command = ["-m", *mlp, "trainer.max_steps=2", "compression=int8,int4", "seed=1,2,3", SWEEP]
    results = train(command, command)
    assert [code for code, _ in results] == [0, 0], results
    found = records(tmp_path / "grid")
    assert [record["status"] for record in found] == ["finished"] * 6
    assert [record["starts"] for record in found] == [1] * 6, "a job was run twice"
    assert len({record["config_hash"] for record in found}) == 6
    # Every job was run by one of the two; the other passed it by.
    done = [output.count("artifact: grid") for _, output in results]
    assert sum(done) == 6
    assert all(done), "one did all the work"


def test_a_sweep_has_one_folder_for_each_job(train, mlp) -> None:
    ((code, output),) = train(["-m", *mlp, "run_dir=x", "seed=1,2"])
    assert code == 1
    assert "choose the one around them with hydra.sweep.dir=PATH" in output


def test_optuna_goes_on_until_it_has_what_it_was_asked_for(train, mlp, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna", reason='needs pip install "mmcompress[sweep]"')
    goals = "goals=[accuracy/acc@1,size/artifact_bytes]"
    command = ["sweep=optuna_pareto", *mlp, goals, SWEEP]
    ((code, _),) = train([*command, "hydra.sweeper.n_trials=2"], kill=("save_s", 0.0))
    assert code == -signal.SIGKILL
    ((code, output),) = train([*command, "hydra.sweeper.n_trials=2"])
    assert code == 0, output
    ((code, output),) = train([*command, "hydra.sweeper.n_trials=3"])
    assert code == 0, output
    assert last_lines(output)[0] == "sweep grid: 1 jobs, 1 finished, 0 skipped, 0 failed"

    found = records(tmp_path / "grid")
    assert sorted(record["starts"] for record in found) == [1, 1, 2]
    study = optuna.load_study(
        study_name="optuna_pareto", storage=f"sqlite:///{tmp_path}/grid/study.db"
    )
    told = [t.values for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert sorted(told) == sorted(
        [r["metrics"]["compressed"]["accuracy/acc@1"], r["size"]["artifact_bytes"]] for r in found
    )
