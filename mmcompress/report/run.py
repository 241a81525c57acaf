"""A run from its folder to its last printed line."""

import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from rich import get_console

from mmcompress.artifact.artifact import Artifact
from mmcompress.artifact.ledger import compact
from mmcompress.artifact.manifest import MANIFEST_FILE
from mmcompress.files import write_atomically
from mmcompress.report.console import print_report
from mmcompress.report.pictures import accuracy_vs_size
from mmcompress.report.record import RunRecord, create_run_folder, read_records
from mmcompress.report.summary import comparable
from mmcompress.report.tracking import finish, log_run

log = logging.getLogger(__name__)


@dataclass
class Run:
    """What `train.py` fills.

    Attributes:
        record: becomes `run.json`.
        loggers, callbacks: for the trainer.
    """

    record: RunRecord
    loggers: list[Logger]
    callbacks: list[Callback]

    @property
    def folder(self) -> Path:
        return self.record.folder

    def report(self, artifact: Artifact) -> None:
        """Write the record, then draw, print and send what it says, in this order."""
        ledger = artifact.ledger()
        self.record.ledger = compact(ledger)
        self.record.save("finished")
        record = self.record.as_dict()
        plot = self.folder / "accuracy_vs_size.png"
        if record["metrics"]["compressed"]:
            accuracy_vs_size(_siblings(self.folder, record), plot)
        else:
            log.warning("no evaluator gave a metric: nothing to draw")
        for logger in self.loggers:
            log_run(logger, record, ledger, plot=plot, manifest=artifact.folder / MANIFEST_FILE)
        print_report(record, artifact.folder)


@contextmanager
def start_run(cfg: DictConfig) -> Iterator[Run]:
    """Make the run folder and open loggers; whatever happens inside, the record is written.

    Of several processes only the first has a folder and loggers; the others show warnings alone.

    Raises:
        ValueError: the folder cannot be written.
    """
    _quiet_libraries()
    if getattr(rank_zero_only, "rank", 0) != 0:
        logging.getLogger().setLevel(logging.WARNING)
        get_console().quiet = True
        record = RunRecord.start(Path(cfg.run_dir), _plain(cfg))
        yield Run(record, [], _instantiate(cfg.callbacks))
        return
    folder = create_run_folder(Path(cfg.run_dir))
    cfg.run_dir = str(folder)
    text = OmegaConf.to_yaml(cfg, resolve=True)
    write_atomically(folder / "config.yaml", lambda file: file.write(text.encode()))
    handler = logging.FileHandler(folder / "run.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    failed = True
    try:
        with RunRecord.start(folder, _plain(cfg)) as record:
            yield Run(record, _instantiate(cfg.logger), _instantiate(cfg.callbacks))
        failed = False
    except BaseException:
        text = traceback.format_exc()
        write_atomically(folder / "traceback.txt", lambda file: file.write(text.encode()))
        raise
    finally:
        finish(failed=failed)
        logging.getLogger().removeHandler(handler)
        handler.close()


def _plain(cfg: DictConfig) -> dict[str, Any]:
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


def _instantiate(nodes: DictConfig | None) -> list[Any]:
    return list(instantiate(nodes or {}).values())


def _siblings(folder: Path, record: dict) -> list[dict]:
    """This run, and finished ones beside it that scored the same backbone on the same data."""
    try:
        return list(comparable(read_records(folder.parent), record))
    except ValueError as error:
        log.warning("the plot shows this run alone: %s", error)
        return [record]


def _quiet_libraries() -> None:
    """Leave out what says nothing about this run."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric.utilities.distributed").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    # pytorch-lightning 2.6 with torch 2.14.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated", category=FutureWarning)
    # Data in memory need no worker processes.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
