"""Loggers beside W&B: what they hold, and that none of them can end a run."""

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from pytorch_lightning.loggers import CSVLogger
from pytorch_lightning.loggers.logger import DummyLogger

from mmcompress.records.schema import Record
from mmcompress.tracking.loggers import Sink, csv_logger, mlflow_logger, tensorboard_logger
from mmcompress.tracking.results import chart_lines, log_results
from tests.report.conftest import as_record


class Full(DummyLogger):
    """Its disk is full from the second call on."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def log_metrics(self, *args: object, **kwargs: object) -> None:
        self.calls += 1
        if self.calls > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_logger_that_fails_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    full = Full()
    sink = Sink(full)
    for step in range(4):
        sink.log_metrics({"loss": 1.0}, step)
    sink.finalize("success")
    assert full.calls == 2
    assert caplog.messages == [
        "Full failed (OSError: [Errno 28] No space left on device): the run goes on without it, "
        "and run.json will hold the results"
    ]


def test_csv_holds_the_numbers_of_every_start(results, tmp_path: Path) -> None:
    for step in (20, 40):
        sink = Sink(csv_logger(save_dir=tmp_path))
        sink.log_metrics({"train/loss": 1.0}, step)
        sink.attempt(lambda logger: log_results(logger, results))
    first, second = tmp_path / "csv" / "metrics.csv", tmp_path / "csv-2" / "metrics.csv"
    assert [path.read_text().splitlines()[1].count(",20") for path in (first, second)] == [1, 0]
    header, *rows = second.read_text().splitlines()
    values = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert float(values["retrieval/mean_recall"]) == 0.86
    assert float(values["size/artifact_bytes"]) == 2_500_000


def test_tensorboard_holds_config_and_numbers(results, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason='needs pip install "mmcompress[tensorboard]"')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    sink = Sink(tensorboard_logger(save_dir=tmp_path))
    sink.log_hyperparams({"seed": 3, "data": {"name": "x"}})
    sink.log_metrics({"train/loss": 1.5}, 3)
    sink.finalize("success")  # Lightning does after the fit, before there are results
    sink.attempt(lambda logger: log_results(logger, results))
    assert not sink.failed
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Scalars("train/loss")[0].value == 1.5
    assert events.Scalars("size/artifact_bytes")[0].value == 2_500_000
    assert "seed: 3" in (tmp_path / "tensorboard" / "hparams.yaml").read_text()


@pytest.mark.slow
def test_mlflow_holds_config_and_numbers(results, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason='needs pip install "mmcompress[mlflow]"')
    uri = f"sqlite:///{tmp_path}/store/mlflow.db"
    sink = Sink(mlflow_logger(tracking_uri=uri, experiment="e", name="n", tags={"run_dir": "r"}))
    sink.log_hyperparams({"seed": 3, "data": {"name": "x"}})
    sink.log_metrics({"val/acc@1": 0.5}, 3)
    sink.finalize("success")
    sink.attempt(lambda logger: log_results(logger, results))
    assert not sink.failed
    (run,) = mlflow.MlflowClient(uri).search_runs(
        [mlflow.MlflowClient(uri).get_experiment_by_name("e").experiment_id]
    )
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "3", "data/name": "x"}
    assert run.data.metrics["val/acc_at_1"] == 0.5
    assert run.data.metrics["size/artifact_bytes"] == 2_500_000
    assert run.data.tags["run_dir"] == "r"


@pytest.mark.parametrize(
    ("name", "library", "start"),
    [
        ("tensorboard", "TensorBoardLogger", partial(tensorboard_logger, save_dir="x")),
        ("mlflow", "Renaming", partial(mlflow_logger, tracking_uri="x", experiment="e")),
    ],
)
def test_a_missing_package_is_one_sentence(
    name: str, library: str, start: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*args: object, **kwargs: object) -> None:
        raise ModuleNotFoundError("no such requirement")

    monkeypatch.setattr(f"mmcompress.tracking.loggers.{library}", missing)
    with pytest.raises(ModuleNotFoundError) as caught:
        start()
    assert str(caught.value) == (
        f'logger={name} needs the package {name}: pip install "mmcompress[{name}]"'
    )


def test_the_chart_of_a_perplexity_joins_the_lowest(make_record) -> None:
    def record(ratio: float, perplexity: float) -> Record:
        metrics = {"dense": {"p/perplexity": 10.0}, "compressed": {"p/perplexity": perplexity}}
        return as_record(make_record("int4", ratio=ratio) | {"metrics": metrics})

    runs = [record(4.0, 11.0), record(8.0, 12.0), record(2.0, 13.0)]
    assert chart_lines(runs[0], runs, "p/perplexity") == {
        "dense": [(2.5, 10.0), (20.0, 10.0)],
        "compressed": [(2.5, 12.0), (5.0, 11.0), (20.0, 10.0)],
    }


def test_other_loggers_get_the_numbers_alone(results, tmp_path: Path) -> None:
    logger = CSVLogger(str(tmp_path))
    log_results(logger, results)
    (path,) = tmp_path.rglob("metrics.csv")
    assert "retrieval/mean_recall" in path.read_text().splitlines()[0]
