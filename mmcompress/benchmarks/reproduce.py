"""A paper's table: the rows that are missing are run, ours is printed beside the published.

A row is one run of `train.py`; one whose exact configuration has finished is not repeated, so a
second call runs nothing, and rows that several tables have in common run once.
"""

import logging
import multiprocessing
import os
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mmcompress.benchmarks.rows import hash_of, run_missing
from mmcompress.config.errors import in_one_sentence
from mmcompress.papers.needs import missing
from mmcompress.papers.published import read_papers
from mmcompress.papers.reproduction import HEADLINES, lines, table_markdown, values_of
from mmcompress.papers.table import (
    SCALES,
    Job,
    PaperTable,
    jobs,
    load_table,
    table_names,
)
from mmcompress.records.record import read_records
from mmcompress.records.schema import FINISHED, Record
from mmcompress.report.formats import comma_separated
from mmcompress.system.files import write_atomically
from mmcompress.system.locations import project_path

PRELOADED = ("mmcompress.experiment", "mmcompress.session")
"""What every run imports; it takes longer than a small run itself."""


@in_one_sentence
def main() -> None:
    settings = read_settings(sys.argv[1:])
    names = table_names() if settings["table"] == "all" else settings["table"].split(",")
    tables = [load_table(name) for name in names]
    papers = read_papers()
    cells = {table.name: table.cells(papers) for table in tables}
    scale, runs = settings["scale"], Path(settings["runs"]) / settings["scale"]
    lacks = {t.name: missing(t, settings) if scale == "full" else "" for t in tables}
    if len(tables) == 1 and lacks[tables[0].name]:
        raise ValueError(lacks[tables[0].name])  # of several tables each says it in its rows
    texts, values = [f"{HEADLINES[scale]}\n"], []
    print(texts[0], flush=True)
    for table in tables:
        todo = list(jobs(table, scale, settings))
        results = run_all(table, todo, runs, lacks[table.name])
        found = lines(table, scale, results, cells[table.name])
        texts.append(table_markdown(table, found, cells[table.name]))
        values += values_of(table, found)
        print(texts[-1], flush=True)
    if settings["out"]:
        write(Path(settings["out"]), "\n".join(texts), comma_separated(values))
    if any(row["problem"] for row in values):
        sys.exit("error: some rows have no run; the tables say why")


def read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    """conf/reproduce.yaml with the command line's `key=value` in it.

    Raises:
        ValueError: a key that is not there, or a scale that is none.
    """
    settings = OmegaConf.load(project_path("conf") / "reproduce.yaml")
    OmegaConf.set_struct(settings, True)
    try:
        settings = OmegaConf.merge(settings, OmegaConf.from_dotlist(list(arguments)))
        plain: Any = OmegaConf.to_container(settings, throw_on_missing=True)
    except OmegaConfBaseException as error:
        first = str(error).splitlines()[0]
        raise ValueError(f"{first}: give table=NAME, and keys of conf/reproduce.yaml") from error
    if plain["scale"] not in SCALES:
        raise ValueError(f"scale={plain['scale']} must be one of {', '.join(SCALES)}")
    return plain


def run_all(
    table: PaperTable, todo: Sequence[Job], runs: Path, lack: str
) -> dict[tuple[str, str | None], Record | str]:
    """Records of all jobs, or why there is none; only what has not finished before runs."""
    hashes = {overrides: hash_of(overrides) for overrides in {job.overrides for job in todo}}

    def find(job: Job) -> Record | str | None:
        return finished_runs(runs).get(hashes[job.overrides]) or lack or None

    def make(job: Job) -> Record | str:
        problem = run(job, runs / hashes[job.overrides])
        return find(job) or problem

    found = run_missing(todo, find, make, title=lambda job: job.row, table=table.name)
    return {(job.row, job.data): result for job, result in found}


def finished_runs(runs: Path) -> dict[str, Record]:
    """Configuration hash → record, of the runs that have finished."""
    records = read_records(runs) if runs.is_dir() else []
    return {r.config_hash: r for r in records if r.status == FINISHED}


def run(job: Job, folder: Path) -> str:
    """One run of train.py, in a process that has imported everything already.

    Returns:
        Why it failed; what it printed is in `FOLDER.log`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    overrides = [*job.overrides, f"name='{job.row}'", f"run_dir={folder}"]
    context: ForkServerContext | SpawnContext = multiprocessing.get_context("spawn")
    if os.name == "posix":
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=train, args=(overrides, log))
    process.start()
    process.join()
    if process.exitcode == 0:
        return ""
    last = [line for line in log.read_text("utf-8").splitlines() if line.strip()][-1:]
    return f"failed, {last[0] if last else 'without a word'} ({log})"


def train(overrides: Sequence[str], log: Path) -> None:
    """`mmcompress.experiment.run`, its output in a file."""
    with log.open("w", encoding="utf-8") as file:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(file.fileno(), stream.fileno())
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    from mmcompress import experiment  # the process was started with it, see `PRELOADED`

    in_one_sentence(experiment.run)(overrides)


def write(out: Path, text: str, values: str) -> None:
    """The page and the numbers."""
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "tables.md", lambda file: file.write(text.encode()))
    write_atomically(out / "tables.csv", lambda file: file.write(values.encode()))
