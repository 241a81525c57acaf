"""The last word of a sweep, by hand."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from mmcompress.records.folder import claim_folder
from mmcompress.sweeps.outcome import BEFORE, Outcome, outcomes, print_outcomes
from mmcompress.system.files import write_json
from tests.report.conftest import make_record


@pytest.fixture
def sweep(tmp_path: Path):
    """`job(name, …)` leaves what a job of that name would, and `end()` tells how they ended."""
    notes = tmp_path / "notes"
    notes.mkdir()

    def job(name: str, *, had_finished: bool = False, **record: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        if record:
            write_json(folder / "run.json", make_record("int8") | {"error": None} | record)
        number = len(list(notes.iterdir()))
        note = {"folder": str(folder), "had_finished": had_finished}
        write_json(notes / f"{number}.json", note)
        return folder

    return job, lambda: outcomes(notes)


def test_every_way_to_end(sweep, tmp_path: Path) -> None:
    job, end = sweep
    names = ("done", "earlier", "broken", "gone")
    done = job("done", status="finished", git_commit="b")
    earlier = job("earlier", had_finished=True, status="finished", git_commit="a")
    broken = job("broken", status="failed", error="ValueError: no")
    gone = job("gone")
    assert [folder.name for folder in (done, earlier, broken, gone)] == list(names)
    stopped = job("stopped", status="interrupted", error="interrupted by SIGTERM")
    unreported = job("unreported", status="scored")
    half = job("half")
    (half / "run.json").write_text("{")
    busy = job("busy")
    held = claim_folder(busy, "0")
    found = end()
    held.release()
    assert found[:4] == [
        Outcome(done, "finished", commit="b"),
        Outcome(earlier, "skipped", BEFORE, "a"),
        Outcome(broken, "failed", "ValueError: no"),
        Outcome(gone, "failed", "its process ended without a word: was it killed?"),
    ]
    assert found[4] == Outcome(stopped, "interrupted", "interrupted by SIGTERM")
    assert found[5].folder == unreported
    assert found[5].reason == "its results are complete, its report is not: it was ended"
    assert found[6].status == "failed"
    assert found[6].reason.startswith(f"{half / 'run.json'} is not a run record (")
    assert found[7].status == "skipped"
    assert "works on it" in found[7].reason

    console = Console(file=io.StringIO(), width=400, highlight=False)
    print_outcomes(tmp_path, found, commit="b", console=console)
    lines = console.file.getvalue().splitlines()
    assert lines[0] == f"sweep {tmp_path}: 8 jobs, 1 finished, 2 skipped, 4 failed, 1 interrupted"
    assert lines[1] == "  skipped: 1 that had finished before"
    assert lines[2] == "  failed: broken: ValueError: no"
    assert lines[3].startswith("  failed: gone: its process ended")
    assert lines[4] == "  interrupted: stopped: interrupted by SIGTERM"
    assert lines[7].startswith("  skipped: busy: process ")
    assert lines[8] == (
        "  1 of the skipped have results of other code (commit a, now b): "
        "delete their folders to repeat them"
    )
    assert len(lines) == 9


def test_jobs_are_told_in_the_order_of_their_numbers(sweep) -> None:
    job, end = sweep
    folders = [job(f"job{number}", status="finished") for number in range(12)]
    assert [outcome.folder for outcome in end()] == folders
