import json
import subprocess
import sys
import time

import pytest

from mmcompress.records.environment import git_commit, hardware, peak_memory_bytes, versions
from mmcompress.records.record import RunRecord, finished, read_record, read_records
from mmcompress.records.settings import config_hash
from mmcompress.system.interruption import Interrupted
from tests.report.conftest import as_record

KEYS = [
    "status",
    "command",
    "config",
    "config_hash",
    "seed",
    "git_commit",
    "versions",
    "hardware",
    "metrics",
    "data",
    "float16",
    "numerics",
    "intervals",
    "runtime",
    "dense_sha256",
    "size",
    "latency",
    "deployed",
    "budget",
    "ledger",
    "timings",
    "starts",
    "peak_memory_bytes",
    "error",
    "version",
]
CONFIG = {"seed": 3, "data": {"name": "x"}, "run_dir": "runs/1"}


def read(folder):
    return json.loads((folder / "run.json").read_text())


def test_a_finished_run(tmp_path):
    with RunRecord.start(tmp_path, CONFIG, gpu=None) as record:
        with record.time("fit_s"):
            time.sleep(0.02)
        with record.time("fit_s"):
            time.sleep(0.02)
        record.metrics.dense = {"a": 0.5}
        assert not (tmp_path / "run.json").exists()
    written = read(tmp_path)
    assert list(written) == KEYS
    assert written["status"] == "finished"
    assert written["error"] is None
    assert written["config"] == CONFIG
    assert written["config_hash"] == config_hash(CONFIG)
    assert written["seed"] == 3
    assert written["metrics"] == {"dense": {"a": 0.5}, "compressed": {}}
    assert 0.04 <= written["timings"]["fit_s"] <= written["timings"]["total_s"] < 5
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_failed_run_keeps_what_it_had_and_raises(tmp_path):
    error = ValueError("the loss is nan\n  at step 7")
    record = RunRecord.start(tmp_path, CONFIG, gpu=None)
    with pytest.raises(ValueError, match="the loss"), record:  # noqa: PT012
        record.metrics.dense = {"a": 0.5}
        raise error
    written = read(tmp_path)
    assert written["status"] == "failed"
    assert written["error"] == "ValueError: the loss is nan at step 7"
    assert written["metrics"] == {"dense": {"a": 0.5}, "compressed": {}}


def test_an_interrupted_run_says_so(tmp_path):
    with pytest.raises(Interrupted), RunRecord.start(tmp_path, CONFIG, gpu=None):
        raise Interrupted(143)
    written = read(tmp_path)
    assert (written["status"], written["error"]) == ("interrupted", "interrupted by SIGTERM")


def test_complete_results_stay_complete_whatever_follows(tmp_path, make_record):
    """Drawing fails, or is interrupted: a later start has the report alone to make."""
    for error, line in (
        (OSError("no"), "OSError: no"),
        (Interrupted(143), "interrupted by SIGTERM"),
    ):
        record = RunRecord.start(tmp_path, CONFIG, gpu=None)
        with pytest.raises(type(error)), record:  # noqa: PT012
            record.take_results(as_record(make_record("int8")))
            record.save("scored")
            assert read(tmp_path)["status"] == "scored"
            raise error
        written = read(tmp_path)
        assert (written["status"], written["error"]) == ("scored", line)
        assert written["size"] == make_record("int8")["size"]
        assert written["config"] == CONFIG


def test_reading_back(tmp_path):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        with pytest.raises(ZeroDivisionError), RunRecord.start(tmp_path / name, CONFIG, gpu=None):
            raise ZeroDivisionError
    records = read_records(tmp_path)
    assert [r.folder for r in records] == [tmp_path / "a", tmp_path / "b"]
    assert records[0].config == CONFIG
    assert read_record(tmp_path / "a") == records[0]
    assert read_record(tmp_path) is None


def test_a_missing_root_is_said(tmp_path):
    with pytest.raises(ValueError, match="is not a folder"):
        read_records(tmp_path / "runs")


def test_unfinished_runs_are_counted_not_hidden(make_record, caplog):
    failed = as_record(make_record("int4") | {"status": "failed"})
    good = as_record(make_record("int8"))
    assert finished([failed, good]) == [good]
    assert caplog.messages == ["1 of 2 runs did not finish: left out"]


def test_environment():
    machine = hardware(None)
    assert machine["cores"] >= 1
    assert machine["cpu"]
    assert machine["ram_bytes"] > 2**28
    found = versions()
    assert found["python"] == sys.version.split()[0]
    assert {"torch", "numpy", "wandb"} <= found.keys()
    peak = peak_memory_bytes()
    assert 50e6 < peak < machine["ram_bytes"]


def test_commit_is_that_of_the_package_and_needs_git(monkeypatch, tmp_path):
    def git(*arguments):
        return subprocess.run(["git", *arguments], capture_output=True, text=True)

    head = git("rev-parse", "HEAD")
    if head.returncode == 0:
        assert git_commit().removesuffix("-dirty") == head.stdout.strip()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_commit() is None
