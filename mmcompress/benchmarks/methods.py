"""Our methods on the embedded benchmark: tables and a picture of the rows of `method_rows`.

Each row is one command `python train.py …`, with three seeds where training is involved. A run
whose exact configuration has finished is not repeated, so an interrupted benchmark goes on where it
stopped.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcompress.benchmarks.method_rows import COSINES, TABLES, Row
from mmcompress.benchmarks.rows import hash_of, run_missing
from mmcompress.records.numerics import NUMERICS
from mmcompress.records.read import read
from mmcompress.records.record import finished, read_records
from mmcompress.records.schema import FILE, FINISHED, Record
from mmcompress.report.metrics import main_metric
from mmcompress.report.pictures import size_marks
from mmcompress.report.plot import SIZE, Mark, pareto_figure, save
from mmcompress.report.summary import Spread, summarize
from mmcompress.report.table import MAIN_METRIC, MEGABYTE, results_table
from mmcompress.system.files import write_atomically
from mmcompress.system.locations import project_path

SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=TABLES, help="all by default")
    parser.add_argument(
        "--runs", type=Path, default=Path("docs/results/records"), help="run folders"
    )
    parser.add_argument("--out", type=Path, help="folder for <table>.md and methods.png")
    parser.add_argument("--peers", type=Path, help="result of benchmark_peers.py, for the picture")
    parser.add_argument("--only", nargs="+", help="names of rows; all by default")
    parser.add_argument("--finished", action="store_true", help="run nothing, show what has run")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    for table in [args.table] if args.table else TABLES:
        rows = [row for row in TABLES[table] if not args.only or row.name in args.only]
        if rows:
            benchmark(table, rows, args)


def benchmark(table: str, rows: list[Row], args: argparse.Namespace) -> None:
    """Run what has not run, and make the table of these rows."""
    jobs = [(row, seed) for row in rows for seed in (SEEDS if row.trained else SEEDS[:1])]
    if not args.finished:
        run_all(jobs, args.runs)
    records = [r for r in finished(read_records(args.runs)) if r.config["name"] in names(rows)]
    if not records:
        return
    text = results_table(records, more=() if table == "methods" else COSINES)
    print(text, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write_atomically(args.out / f"{table}.md", lambda file: file.write(text.encode()))
        if table == "methods":
            draw(rows, records, args.peers, args.out / "methods.png")


def names(rows: list[Row]) -> set[str]:
    """What the runs of these rows are called."""
    return {row.name for row in rows}


def command_line(row: Row, seed: int, runs: Path) -> tuple[Path, list[str]]:
    """The run folder, and the overrides of `train.py`."""
    folder = runs / re.sub(r"[^\w.]+", "_", row.name) / str(seed)
    return folder, [*row.overrides, f"name='{row.name}'", f"seed={seed}", f"run_dir={folder}"]


def run_all(jobs: Sequence[tuple[Row, int]], runs: Path) -> None:
    """Run what has not finished before with the same settings.

    Args:
        jobs: rows with a seed.
        runs: where the run folders are.
    """

    def find(job: tuple[Row, int]) -> Record | None:
        return finished_run(*command_line(*job, runs))

    def run(job: tuple[Row, int]) -> None:
        _, overrides = command_line(*job, runs)
        command = [sys.executable, str(project_path("train.py")), *overrides, "logger=none"]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
        if done.returncode:
            sys.exit(f"error: {title(job)} failed: run {' '.join(command)}")

    def title(job: tuple[Row, int]) -> str:
        return f"{job[0].name}, seed {job[1]}"

    for _ in run_missing(jobs, find, run, title=title):
        pass


def finished_run(folder: Path, overrides: Sequence[str]) -> Record | None:
    """Record of the run in `folder`, where it has finished with this configuration and numerics."""
    if not (folder / FILE).is_file():
        return None
    record = read(folder / FILE)
    same = record.config_hash == hash_of(overrides) and record.numerics == NUMERICS
    return record if record.status == FINISHED and same else None


def draw(rows: list[Row], records: list[Record], peers: Path | None, path: Path) -> None:
    """One line per family, the peers of `benchmark_peers.py` as points."""
    families = {row.name: row.family for row in rows}
    metric = main_metric(records)  # records of earlier versions have another
    ours, dense = size_marks(summarize(records), metric)
    marks = [
        replace(mark, family=families.get(mark.label.partition(" (")[0], mark.family))
        for mark in ours.values()
    ]
    everything = marks + peer_marks(peers, metric)
    save(pareto_figure(everything, dense, metric, SIZE, width=5.6, height=4.0), path)


def peer_marks(path: Path | None, metric: str = MAIN_METRIC) -> list[Mark]:
    """Points of the JSON of `benchmark_peers.py` that have the metric, seeds together."""
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in json.loads(path.read_bytes())["results"] if path else []:
        if metric in (row.get("metrics") or {}):
            settings.setdefault((row["peer"], row["name"], row["trained"]), []).append(row)
    marks = []
    for rows in settings.values():
        size = Spread.of([row["bytes"] / MEGABYTE for row in rows])
        value = Spread.of([row["metrics"][metric] for row in rows])
        marks.append(Mark(size.mean, value.mean, value.std, family=rows[0]["peer"], peer=True))
    return marks
