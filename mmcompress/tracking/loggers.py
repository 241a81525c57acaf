"""Loggers as sinks: they get copies of what already lies in the run folder, and may fail.

CSV, TensorBoard and MLflow as Lightning has them; Weights & Biases is in `tracking`.
"""

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger
from typing_extensions import override

from mmcompress.records.record import error_line
from mmcompress.system.extras import needs_package

log = logging.getLogger(__name__)

SQLITE = "sqlite:///"


class Sink(Logger):
    """Another logger, until it fails: a full disk or a lost server ends the logger, not the run.

    Attributes:
        logger: the other one.
        failed: whether it has, and gets nothing any more.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger
        self.failed = False

    def attempt(self, action: Callable[[Logger], object]) -> None:
        """Let the logger do something; whatever its library raises is one line in the log."""
        if self.failed:
            return
        try:
            action(self.logger)
        except Exception as error:
            self.failed = True
            log.warning(
                "%s failed (%s): the run goes on without it, and run.json will hold the results",
                type(self.logger).__name__,
                error_line(error),
            )

    @property
    @override
    def name(self) -> str | None:
        return self.logger.name

    @property
    @override
    def version(self) -> int | str | None:
        return self.logger.version

    @property
    @override
    def save_dir(self) -> str | None:
        return self.logger.save_dir

    @override
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.attempt(lambda logger: logger.log_metrics(metrics, step))

    @override
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        self.attempt(lambda logger: logger.log_hyperparams(params, *args, **kwargs))

    @override
    def save(self) -> None:
        self.attempt(lambda logger: logger.save())

    @override
    def finalize(self, status: str) -> None:
        self.attempt(lambda logger: logger.finalize(status))

    @override
    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        self.attempt(lambda logger: logger.after_save_checkpoint(checkpoint_callback))


def finish(*, failed: bool = False) -> None:
    """End what a logger leaves open in this process: the run of W&B, where that is in use."""
    if "wandb" in sys.modules:
        from mmcompress.tracking.weights_and_biases import finish as finish_wandb

        finish_wandb(failed=failed)


def csv_logger(*, save_dir: str | Path) -> CSVLogger:
    """`csv/metrics.csv` in the run folder; `csv-2`, … when the run is started again.

    Lightning's would delete what an earlier start has written.
    """
    number, version = 1, "csv"
    while (Path(save_dir) / version).exists():
        number += 1
        version = f"csv-{number}"
    return CSVLogger(str(save_dir), name="", version=version)


@needs_package("tensorboard", extra="tensorboard")
def tensorboard_logger(*, save_dir: str | Path) -> TensorBoardLogger:
    """Event files in `tensorboard/` of the run folder: `tensorboard --logdir runs`.

    Raises:
        ModuleNotFoundError: the extra `tensorboard` is not installed.
    """
    try:
        return TensorBoardLogger(str(save_dir), name="", version="tensorboard")
    except ModuleNotFoundError as error:
        raise _missing("tensorboard") from error


class Renaming(MLFlowLogger):
    """Lightning's, with metric names that MLflow allows: `r@1` becomes `r_at_1`."""

    @override
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({k.replace("@", "_at_"): v for k, v in metrics.items()}, step)


@needs_package("mlflow", extra="mlflow")
def mlflow_logger(
    *,
    tracking_uri: str,
    experiment: str,
    name: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> MLFlowLogger:
    """A run in an MLflow store; a run that is started again has a run there for each start.

    Args:
        tracking_uri: a server, or `sqlite:///PATH` for a file.
        experiment: what MLflow groups runs by.
        tags: of the run.
    Raises:
        ModuleNotFoundError: the extra `mlflow` is not installed.
    """
    if tracking_uri.startswith(SQLITE):
        Path(tracking_uri.removeprefix(SQLITE)).parent.mkdir(parents=True, exist_ok=True)
    try:
        return Renaming(
            experiment_name=experiment,
            run_name=name,
            tracking_uri=tracking_uri,
            tags=dict(tags or {}),
        )
    except ModuleNotFoundError as error:
        raise _missing("mlflow") from error


def _missing(name: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f'logger={name} needs the package {name}: pip install "mmcompress[{name}]"'
    )
