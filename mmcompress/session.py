"""What surrounds the line of `experiment.run`: folder, lock, record, log, loggers, checkpoints.

W&B, signals and other processes are dealt with here, so that the line need not.
"""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from rich import get_console

from mmcompress.artifact.folder import Artifact
from mmcompress.artifact.ledger import compact
from mmcompress.compression.compressed import Plan
from mmcompress.config import job
from mmcompress.config.compose import plain
from mmcompress.records.folder import (
    ARTIFACT,
    PLAN,
    RunFolder,
    checkpoints_in,
    claim_folder,
    forget_results,
    is_scored,
    open_folder,
)
from mmcompress.records.place import run_path
from mmcompress.records.read import typed
from mmcompress.records.record import RunRecord, read_record, read_records
from mmcompress.records.schema import Record, Row
from mmcompress.records.settings import config_hash
from mmcompress.report.console import print_report
from mmcompress.report.summary import comparable
from mmcompress.system.devices import gpu_name
from mmcompress.system.distributed import broadcast, is_first_process
from mmcompress.system.files import set_aside, write_atomically, write_json
from mmcompress.system.interruption import Interrupted, interruptible, listen
from mmcompress.system.memory import hand_back_memory
from mmcompress.system.seeds import seed_from
from mmcompress.tracking.loggers import Sink, finish
from mmcompress.training.launch import start_processes
from mmcompress.training.module import calibrated_in

log = logging.getLogger(__name__)

STAGE_LOG = f"{__name__}.stages"
BEGINS, ENDS = "begins", "ends"
stages = logging.getLogger(STAGE_LOG)
"""Says at level DEBUG where each stage of a run begins and ends, for who watches memory or time."""


@dataclass
class Session:
    """One start of a run.

    Attributes:
        record: becomes `run.json`.
        loggers, callbacks: for the trainer.
        checkpoint: where training goes on from; None to begin anew.
        calibrated: what that checkpoint says of the calibration, for `Recipe.restore`.
        is_scored: an earlier start has come to all results; only `report` is left to do.
        artifact: what was stored and scored; None before that, and in other processes.
    """

    record: RunRecord
    loggers: list[Sink]
    callbacks: list[Callback]
    checkpoint: Path | None = None
    calibrated: dict[str, Any] | None = None
    is_scored: bool = False
    artifact: Artifact | None = None

    @property
    def folder(self) -> Path:
        return self.record.folder

    @property
    def is_first(self) -> bool:
        """Whether this is the first of the run's processes, which stores and scores."""
        return is_first_process()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A part of the run, timed, with random numbers that do not depend on the parts before."""
        seed_from(self.record.seed, name)
        stages.debug("%s %s", name, BEGINS)
        with self.record.time(name):
            yield
        hand_back_memory()
        stages.debug("%s %s", name, ENDS)

    def start_trainer(self, settings: DictConfig) -> pl.Trainer:
        """Lightning's trainer; where it works with several processes, all are up now, and go on
        from where the first of them does."""
        trainer = instantiate(settings, logger=self.loggers, callbacks=self.callbacks)
        start_processes(trainer)
        shared = broadcast((self.checkpoint, self.calibrated, self.is_scored))
        self.checkpoint, self.calibrated, self.is_scored = shared
        return trainer

    def keep_results(self, artifact: Artifact, plan: Plan) -> None:
        """Write the record: from here on nothing is computed again."""
        self.artifact = artifact
        self.record.ledger = typed(list[Row], compact(artifact.ledger()))
        write_json(self.folder / PLAN, plan)
        self.record.save("scored")

    def report(self) -> None:
        """Draw, send and print what the record says, in this order; the first process does."""
        if self.artifact is not None:
            with self.stage("report_s"):
                self._report(self.artifact)

    def _report(self, artifact: Artifact) -> None:
        record = read_record(self.folder)
        assert record is not None, "results are kept before they are reported"
        plan = json.loads((self.folder / PLAN).read_bytes())
        ledger = artifact.ledger()
        plot = self.folder / "accuracy_vs_size.png"
        siblings = _siblings(self.folder, record)
        if record.metrics.compressed:
            from mmcompress.report.pictures import accuracy_vs_size  # matplotlib is long to import

            accuracy_vs_size(siblings, plot)
        else:
            log.warning("no evaluator gave a metric: nothing to draw")
        if self.loggers:
            from mmcompress.tracking.results import Results, log_results  # and so is W&B

            results = Results(record, siblings, artifact, ledger, plan, plot)
            for sink in self.loggers:
                sink.attempt(lambda logger: log_results(logger, results))
        print_report(record, artifact.folder)


@contextmanager
def start_run(cfg: DictConfig) -> Iterator[Session]:
    """Make the run folder and open loggers; whatever happens inside, the record is written, also
    when a signal ends it.

    Where the folder holds the same run, cut short, that run goes on from its last checkpoint. Of
    several processes only the first has a folder and loggers; the others show warnings alone.

    Raises:
        ValueError: the folder cannot be written, or `resume` names no checkpoint of ours.
        FolderUnavailable: this is a job of a sweep that has finished, or another process works on
            it.
    """
    if cfg.resume:
        try:
            calibrated_in(cfg.resume)  # a bad one leaves no folder behind
        except ValueError as error:
            raise ValueError(f"resume={error}: name a .ckpt file of a run") from error
    config = plain(cfg)
    key = config_hash(config)
    path = run_path(cfg)
    if not is_first_process():
        logging.getLogger().setLevel(logging.WARNING)
        get_console().quiet = True
        yield _session(cfg, RunRecord.start(path, config, gpu=gpu_name()), [], None)
        return
    held = claim_folder(path, key) if job.sweep_folder() else open_folder(path, key)
    try:
        with interruptible(), _files(cfg, held) as (record, loggers):
            yield _session(cfg, record, loggers, held.path)
    finally:
        held.release()


def _session(
    cfg: DictConfig, record: RunRecord, loggers: list[Sink], folder: Path | None
) -> Session:
    """With the last whole checkpoint in the folder, else with the one that `resume` names."""
    artifact = _scored_artifact(cfg, folder) if folder else None
    if artifact is not None:
        earlier = read_record(artifact.folder.parent)
        assert earlier is not None
        record.take_results(earlier)
        log.info("the results in %s are complete, their report is made up", folder)
        return Session(record, loggers, [], is_scored=True, artifact=artifact)
    checkpoint, calibrated = _last_checkpoint(folder) if folder else (None, None)
    if checkpoint is not None:
        log.info("going on from %s", checkpoint)
    elif cfg.resume:
        checkpoint, calibrated = Path(cfg.resume), calibrated_in(cfg.resume)
    callbacks = [*_instantiate(cfg.callbacks), Listening()]
    return Session(record, loggers, callbacks, checkpoint, calibrated)


def _scored_artifact(cfg: DictConfig, folder: Path) -> Artifact | None:
    """What an earlier start has stored and scored; None where that is nothing or damaged."""
    if not is_scored(folder):
        return None
    try:
        artifact = Artifact.read(folder / ARTIFACT, skeleton=partial(instantiate, cfg.backbone))
        json.loads((folder / PLAN).read_bytes())
    except (OSError, ValueError) as error:
        log.warning("%s: it is stored and scored again", error)
        forget_results(folder)
        return None
    return artifact


def _last_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
    """And what it says of the calibration; damaged ones are set aside."""
    found = checkpoints_in(folder)
    for number, checkpoint in enumerate(found, start=1):
        try:
            return checkpoint, calibrated_in(checkpoint)
        except ValueError as error:
            then = "the one before it is tried" if number < len(found) else "beginning anew"
            set_aside(checkpoint, error, then)
    return None, None


class Listening(Callback):
    """Signals interrupt a fit like any other part of a run.

    While it fits, Lightning has a handler of its own for SIGTERM, which lets the program end as if
    all were well, and which waits for other processes that may never answer.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        listen()


class RunLog(logging.FileHandler):
    """`run.log`: a disk that is full costs lines of it, where logging would print a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


def _how_to_go_on(folder: Path) -> str:
    """The same command finds the folder of a job, and of a run whose `run_dir` it names."""
    named = job.sweep_folder() or f"run_dir={folder}" in job.overrides()
    return "the same command goes on" + ("" if named else f" when it names run_dir={folder}")


@contextmanager
def _files(cfg: DictConfig, held: RunFolder) -> Iterator[tuple[RunRecord, list[Sink]]]:
    """The files of a run but for its results."""
    folder = held.path
    cfg.run_dir = str(folder)
    text = OmegaConf.to_yaml(cfg, resolve=True)
    write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))
    handler = RunLog(folder / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    failed = True
    try:
        with RunRecord.start(folder, plain(cfg), gpu=gpu_name()) as record:
            record.starts = held.starts
            sinks = [Sink(logger) for logger in _instantiate(cfg.logger)]
            for sink in sinks:
                sink.log_hyperparams(record.config)
            yield record, sinks
            failed = False
            finish()  # before the record says that nothing is left to do
    except Interrupted as interrupted:
        interrupted.advice = _how_to_go_on(folder)
        raise
    except BaseException:
        text = traceback.format_exc()
        with suppress(OSError):  # a full disk has no room for its own traceback
            write_atomically(folder / "traceback.txt", lambda file: file.write(text.encode()))
        raise
    finally:
        finish(failed=failed)
        logging.getLogger().removeHandler(handler)
        handler.close()


def _instantiate(nodes: DictConfig | None) -> list[Any]:
    return list(instantiate(nodes or {}).values())


def _siblings(folder: Path, record: Record) -> list[Record]:
    """This run, and finished ones beside it that scored the same backbone on the same data."""
    try:
        return list(comparable(read_records(folder.parent), record))
    except ValueError as error:
        log.warning("the plot shows this run alone: %s", error)
        return [record]
