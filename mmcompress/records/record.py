"""`run.json`: what one run was, did and measured. Tables and plots read these files only."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mmcompress.config.errors import root_cause
from mmcompress.config.job import command
from mmcompress.records.environment import git_commit, hardware, peak_memory_bytes, versions
from mmcompress.records.numerics import NUMERICS
from mmcompress.records.read import read
from mmcompress.records.schema import COMPLETE, FILE, SCORED, Record, Status
from mmcompress.records.settings import config_hash
from mmcompress.system.files import write_json
from mmcompress.system.interruption import Interrupted

log = logging.getLogger(__name__)

BEFORE_RESULTS = ("folder", "config", "config_hash", "seed", "status", "starts", "error")
"""Fields that are not about how the results came to be."""


@dataclass(kw_only=True)
class RunRecord(Record):
    """The record of a run in this process; leaving the `with` block writes `run.json`.

        with RunRecord.start(folder, config, gpu=None) as record:
            with record.time("fit_s"):
                trainer.fit(module, TrainingData(data))
            record.metrics.compressed = evaluate(…)

    An exception is recorded as `status: failed` with one line of `error`, and goes on; one that
    stands for a signal as `status: interrupted`. Once the results are saved as `status: scored`
    that stays, and what remains to be made of them can be made up later.
    """

    status: Status = "running"

    @classmethod
    def start(cls, folder: Path, config: dict[str, Any], *, gpu: str | None) -> Self:
        """A record of this process, from now on.

        Args:
            folder: the run folder; it exists.
            config: the resolved configuration, plain containers; its `seed` is copied out.
            gpu: name of the CUDA device in use.
        """
        return cls(
            folder=folder,
            command=command(),
            config=config,
            config_hash=config_hash(config),
            runtime=config.get("runtime", "dense"),
            seed=config.get("seed"),
            git_commit=git_commit(),
            versions=versions(),
            hardware=hardware(gpu),
        )

    def __post_init__(self) -> None:
        self._began = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.save("finished")
            return
        try:
            self._save_ended(error)
        except OSError as full:  # the disk may be full, which may be why it has failed
            log.warning("how the run ended is not recorded: %s", full)

    def _save_ended(self, error: BaseException) -> None:
        if self.status == SCORED:  # the results are there
            self.error = str(error) if isinstance(error, Interrupted) else error_line(error)
            self.save("scored")
        elif isinstance(error, Interrupted):
            self.error = str(error)
            self.save("interrupted")
        else:
            self.error = error_line(error)
            self.save("failed")

    def save(self, status: Status) -> None:
        """Write `run.json` as things stand now."""
        self.status = status
        self.timings["total_s"] = time.perf_counter() - self._began
        self.peak_memory_bytes = peak_memory_bytes()
        write_json(self.folder / FILE, self.as_json())

    def take_results(self, earlier: Record) -> None:
        """Let this be the record of results that an earlier start of the run has come to.

        Args:
            earlier: its record, of `read_record`.
        """
        for name in {each.name for each in fields(earlier)} - set(BEFORE_RESULTS):
            setattr(self, name, getattr(earlier, name))
        self.status = "scored"

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Add the seconds that the block takes to `timings[name]`."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - begin


def error_line(error: BaseException) -> str:
    """Kind and message in one line, of what lies behind an error in a constructor.

    Example:
        >>> error_line(ValueError("the loss is nan\\n  at step 7"))
        'ValueError: the loss is nan at step 7'
    """
    cause = root_cause(error)
    return " ".join(f"{type(cause).__name__}: {cause}".split())


def read_records(root: Path) -> list[Record]:
    """All `run.json` below `root`, in the order of their paths.

    Those that are not run records are named in the log, each in a line, and left out.

    Raises:
        ValueError: `root` is no folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the one that holds the runs")
    records = []
    for path in sorted(root.rglob(FILE)):
        try:
            records.append(read(path))
        except ValueError as error:
            log.warning("left out: %s", error)
    return records


def read_record(folder: Path) -> Record | None:
    """The record of the run in `folder`; None where there is none.

    Raises:
        ValueError: it is not a run record.
    """
    return read(folder / FILE) if (folder / FILE).is_file() else None


def stale_line(records: Sequence[Record]) -> str:
    """One sentence where records are of other numerics than this code's; else empty.

    Example:
        >>> new = RunRecord(folder=Path(), config={})
        >>> stale_line([RunRecord(folder=Path(), config={}, numerics=0), new]).partition(":")[0]
        '1 of 2 runs has numbers that mean something else (numerics 0)'
    """
    old = [record.numerics for record in records if record.numerics != NUMERICS]
    if not old:
        return ""
    versions = ", ".join(map(str, sorted(set(old))))
    return (
        f"{len(old)} of {len(records)} runs {'has' if len(old) == 1 else 'have'} numbers that mean "
        f"something else (numerics {versions}): run them again to compare them with those of this "
        f"version (numerics {NUMERICS})"
    )


def finished(records: Sequence[Record]) -> list[Record]:
    """Those that ended well; one logged line counts the others."""
    kept = [record for record in records if record.status in COMPLETE]
    if len(kept) < len(records):
        log.warning(
            "%d of %d runs did not finish: left out", len(records) - len(kept), len(records)
        )
    return kept
