"""How the jobs of a sweep ended."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from mmcompress.records.folder import at_work
from mmcompress.records.record import read_record
from mmcompress.records.schema import SCORED
from mmcompress.report.console import report_console
from mmcompress.system.files import write_json
from mmcompress.system.text import printable

Status = Literal["finished", "skipped", "failed", "interrupted"]

BEFORE = "it had finished before"


@dataclass(frozen=True)
class Outcome:
    """One job.

    Attributes:
        folder: its run folder.
        reason: why it was skipped, interrupted or has failed; empty for one that has finished.
        commit: of the code that made its results; None where there are none, or no git.
    """

    folder: Path
    status: Status
    reason: str = ""
    commit: str | None = None


def outcomes(notes: Path) -> list[Outcome]:
    """From the notes that the jobs of one sweep left, in the order of their numbers."""
    files = sorted(notes.glob("*.json"), key=lambda path: int(path.stem))
    return [_outcome(json.loads(path.read_bytes())) for path in files]


def note_end(notes: Path, number: int, name: str, how: str) -> None:
    """Write down how the process of a job was ended.

    Args:
        name: of the job, where it has not come to leave a note of its own.
        how: such as `SIGKILL(-9)`.
    """
    notes.mkdir(parents=True, exist_ok=True)
    path = notes / f"{number}.json"
    note = json.loads(path.read_bytes()) if path.exists() else {"folder": name}
    write_json(path, {"had_finished": False} | note | {"ended_by": how})


def _outcome(note: dict[str, Any]) -> Outcome:
    folder = Path(note["folder"])
    try:
        record = read_record(folder)
    except ValueError as error:
        return Outcome(folder, "failed", str(error))
    if record is not None and record.status == "finished":
        commit = record.git_commit
        if note["had_finished"]:
            return Outcome(folder, "skipped", BEFORE, commit)
        return Outcome(folder, "finished", commit=commit)
    busy = at_work(folder)
    if busy is not None:
        return Outcome(folder, "skipped", busy)
    if record is None:
        how = note.get("ended_by")
        killed = "its process ended without a word: was it killed?"
        return Outcome(folder, "failed", f"its process was ended by {how}" if how else killed)
    if record.status == SCORED:
        reason = record.error or "it was ended"
        return Outcome(folder, "failed", f"its results are complete, its report is not: {reason}")
    status: Status = "interrupted" if record.status == "interrupted" else "failed"
    return Outcome(folder, status, record.error or record.status)


def print_outcomes(
    sweep: Path,
    found: Sequence[Outcome],
    *,
    commit: str | None,
    console: Console | None = None,
) -> None:
    """One line for all, one for those that had finished before, and one with the reason for each
    other that has not finished.

    Args:
        sweep: its folder.
        commit: of the code that runs now; results of other code are pointed out.
        console: standard output when None.
    """
    console = console or report_console()

    def say(line: str) -> None:
        console.print(Text(printable(line)), soft_wrap=True)

    counts = Counter(outcome.status for outcome in found)
    shown: list[Status] = ["finished", "skipped", "failed"]
    shown += ["interrupted"] if counts["interrupted"] else []
    numbers = ", ".join(f"{counts[status]} {status}" for status in shown)
    say(f"sweep {sweep}: {len(found)} jobs, {numbers}")
    before = sum(outcome.reason == BEFORE for outcome in found)
    if before:
        say(f"  skipped: {before} that had finished before")
    for outcome in found:
        if outcome.status != "finished" and outcome.reason != BEFORE:
            say(f"  {outcome.status}: {outcome.folder.name}: {outcome.reason}")
    older = [o for o in found if o.status == "skipped" and o.commit not in (None, commit)]
    if older:
        say(
            f"  {len(older)} of the skipped have results of other code (commit {older[0].commit}, "
            f"now {commit}): delete their folders to repeat them"
        )
