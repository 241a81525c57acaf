"""One call of `train.py`: a run of its own, or one job of a sweep."""

import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path

from omegaconf import DictConfig

from mmcompress.config import job
from mmcompress.config.compose import plain
from mmcompress.config.errors import in_one_sentence, root_cause
from mmcompress.records.folder import (
    FolderUnavailable,
    at_work,
    claim_folder,
    claimed_here,
    status_in,
)
from mmcompress.records.place import run_path
from mmcompress.records.record import RunRecord, error_line, read_record
from mmcompress.records.schema import FINISHED, Record
from mmcompress.records.settings import config_hash
from mmcompress.records.values import summary_values
from mmcompress.system.devices import gpu_name
from mmcompress.system.distributed import is_first_process
from mmcompress.system.files import write_atomically
from mmcompress.system.interruption import Interrupted, interruptible

log = logging.getLogger(__name__)

Values = tuple[float, ...]


def as_job(function: Callable[[DictConfig], object]) -> Callable[[DictConfig], Values | None]:
    """Let `train.py` be started alone and in sweeps.

    Alone, it ends with one sentence on an error that the user can mend. A signal ends it with one
    line that says how to go on, and with a code that is not zero; it ends a sweep too. In a sweep:

    * what has finished with this very configuration is not run again;
    * what was cut short or has failed goes on from its last checkpoint, or begins anew;
    * an error is written to the job's `run.json` and does not stop the other jobs;
    * the numbers that `goals` names are returned, for a sweeper that learns from them (Optuna);
      None where there are none.
    """

    @wraps(function)
    def wrapper(cfg: DictConfig) -> Values | None:
        if "wandb_sweep" in cfg:
            choice = job.choices()["sweep"]
            sys.exit(
                f"error: W&B's server runs sweep={choice}: "
                f"python scripts/wandb_sweep.py conf/sweep/{choice}.yaml"
            )
        try:
            with interruptible():
                return _started(function, cfg)
        except Interrupted as interrupted:
            if is_first_process():
                log.error("%s: %s", interrupted, interrupted.advice)
            raise

    return wrapper


def _started(function: Callable[[DictConfig], object], cfg: DictConfig) -> Values | None:
    if job.sweep_folder() is None:
        in_one_sentence(function)(cfg)
        return None
    path = run_path(cfg)
    reason = _is_done(path) or (at_work(path) if is_first_process() else None)
    if reason is None:
        try:
            function(cfg)
        except FolderUnavailable as taken:
            reason = str(taken)
        except Exception as error:
            _keep(cfg, path, error)
    if reason is not None:
        log.info("skipped: %s", reason)
    return goals(_record_in(path), cfg.goals)


def _record_in(path: Path) -> Record | None:
    """None also where it cannot be read."""
    try:
        return read_record(path)
    except ValueError:
        return None


def _is_done(path: Path) -> str | None:
    return f"it has finished in {path}" if status_in(path) == FINISHED else None


def goals(record: Record | None, names: list[str]) -> Values | None:
    """Numbers of a finished run, by the names of `summary_values`; None where there are none.

    Raises:
        ValueError: it has no number of that name.

    Example:
        >>> record = Record(folder=Path(), config={}, status="finished", timings={"fit_s": 7.0})
        >>> record.metrics.compressed["a"] = 0.4
        >>> goals(record, ["a", "timings/fit_s"])
        (0.4, 7.0)
    """
    if record is None or record.status != FINISHED or not names:
        return None
    values = summary_values(record)
    missing = [name for name in names if name not in values]
    if missing:
        raise ValueError(
            f"goals names {', '.join(missing)}, which the run has not measured: choose from "
            f"{', '.join(values)}"
        )
    return tuple(values[name] for name in names)


def _keep(cfg: DictConfig, path: Path, error: Exception) -> None:
    """Say what went wrong, and see that it is recorded: it may have been before the run began."""
    cause = root_cause(error)
    log.error("error: %s", cause, exc_info=os.environ.get("HYDRA_FULL_ERROR") == "1")
    if not is_first_process():
        return
    record = _record_in(path)
    if record is not None and record.error == error_line(error) and claimed_here(path):
        return
    config = plain(cfg)
    try:
        held = claim_folder(path, config_hash(config))
    except (FolderUnavailable, ValueError) as problem:  # the disk may be full
        log.warning("its error is not recorded: %s", problem)
        return
    try:
        text = "".join(traceback.format_exception(error))
        write_atomically(path / "traceback.txt", lambda file: file.write(text.encode()))
        failed = RunRecord.start(path, config, gpu=gpu_name())
        failed.starts, failed.error = held.starts, error_line(error)
        failed.save("failed")
    except OSError as problem:
        log.warning("its error is not recorded: %s", problem)
    finally:
        held.release()
