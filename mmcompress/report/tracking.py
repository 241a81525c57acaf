"""Weights & Biases as a sink: it gets copies of what already lies in the run folder."""

import itertools
import logging
import netrc
import os
from collections.abc import Mapping, Sequence
from dataclasses import astuple, fields
from functools import partial
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger

from mmcompress.artifact.ledger import LedgerRow
from mmcompress.report.table import MAIN_METRIC, MEGABYTE

log = logging.getLogger(__name__)

DEFAULT_HOST = "https://api.wandb.ai"
INIT_SECONDS = 30.0
"""How long to wait for the server before a run goes on offline."""

Mode = Literal["online", "offline", "disabled"]


def wandb_mode(environment: Mapping[str, str] = os.environ) -> Mode:
    """`WANDB_MODE` where it is set; else online with a login and offline without one.

    A login is an API key or an identity token in the environment, or an entry for the host in the
    netrc file, where `wandb login` puts it. The network is not touched.

    Raises:
        ValueError: `WANDB_MODE` is something else.
    """
    given = environment.get("WANDB_MODE")
    modes: dict[str, Mode] = {
        "online": "online",
        "run": "online",
        "offline": "offline",
        "dryrun": "offline",
        "disabled": "disabled",
    }
    if given is not None:
        if given not in modes:
            raise ValueError(f"WANDB_MODE={given!r} must be one of {', '.join(modes)}")
        return modes[given]
    keys = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")
    has_key = any(environment.get(key) for key in keys) or _in_netrc(environment)
    return "online" if has_key else "offline"


def _in_netrc(environment: Mapping[str, str]) -> bool:
    host = urlsplit(environment.get("WANDB_BASE_URL", DEFAULT_HOST)).netloc
    named = environment.get("NETRC")
    home = Path.home()
    for path in [Path(named)] if named else [home / ".netrc", home / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(host):
                return True
        except (FileNotFoundError, PermissionError):
            continue
        except netrc.NetrcParseError as error:
            log.warning("%s cannot be read (%s): no W&B login taken from it", path, error)
    return False


def wandb_logger(
    *,
    save_dir: str | Path,
    project: str = "mmcompress",
    entity: str | None = None,
    group: str | None = None,
    job_type: str = "compress",
    name: str | None = None,
    tags: Sequence[str] = (),
) -> WandbLogger:
    """Start a W&B run, quietly; Lightning logs to it by step.

    Without a login, or when the server does not answer, the run is kept in `save_dir` and one
    line says how to send it later. End it with `finish`.

    Args:
        save_dir: the run folder; W&B makes `wandb/` in it.
        group: what a sweep's runs have in common.
    """
    init = partial(
        wandb.init,
        project=project,
        entity=entity,
        group=group,
        job_type=job_type,
        name=name,
        tags=list(tags),
        dir=str(save_dir),
        settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_SECONDS),
    )
    mode = wandb_mode()
    reason = "WANDB_MODE=offline" if "WANDB_MODE" in os.environ else "no login"
    try:
        run = init(mode=mode)
    except wandb.Error as error:
        wandb.teardown()
        mode, reason = "offline", " ".join(str(error).split())
        run = init(mode=mode)
    # Lightning would do both, and would hand wandb.init an option that it warns about.
    run.define_metric("trainer/global_step")
    run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
    if mode == "offline":
        folder = Path(run.dir).parent
        log.info("W&B: kept offline (%s); send it with: wandb sync %s", reason, folder)
    return WandbLogger(experiment=run, project=project, save_dir=str(save_dir))


def log_run(
    logger: Logger,
    record: Mapping[str, Any],
    ledger: Sequence[LedgerRow],
    *,
    plot: Path,
    manifest: Path,
) -> None:
    """Copy a finished run to W&B; other loggers get the scalar metrics only.

    Config, summary (metrics, bytes, ratio, latency), the ledger as a table, accuracy against size
    as a chart and as the picture, and the manifest as an artifact. Call it after `run.json` is
    written: what goes wrong here is logged and costs nothing that is local.

    Args:
        record: content of `run.json`.
        ledger: `Artifact.ledger()`.
        plot: the PNG of accuracy against size.
        manifest: `manifest.json` of the artifact.
    """
    scalars = summary_values(record)
    if not isinstance(logger, WandbLogger):
        logger.log_metrics(scalars)
        return
    try:
        _log_to_wandb(logger, record, scalars, ledger, plot, manifest)
    except (wandb.Error, OSError) as error:
        log.warning("W&B: the run's results were not sent (%s); they are in run.json", error)


def summary_values(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a run record, one level deep.

    Example:
        >>> summary_values({"metrics": {"dense": {"a": 0.5}, "compressed": {"a": 0.4}},
        ...                 "size": {"artifact_bytes": 7, "dense_dtype": "float32"}})
        {'a': 0.4, 'dense/a': 0.5, 'size/artifact_bytes': 7}
    """
    values = dict(record["metrics"]["compressed"])
    values |= {f"dense/{name}": value for name, value in record["metrics"]["dense"].items()}
    for section in ("size", "timings"):
        for name, value in record.get(section, {}).items():
            if isinstance(value, int | float):
                values[f"{section}/{name}"] = value
    for model, unit in itertools.product(("dense", "compressed"), ("ms", "pairs_per_s")):
        which = f"{model}_{unit}"
        for batch, value in (record.get("latency", {}).get(which) or {}).items():
            values[f"latency/{which}_batch_{batch}"] = value
    return values


def _log_to_wandb(
    logger: WandbLogger,
    record: Mapping[str, Any],
    scalars: Mapping[str, float],
    ledger: Sequence[LedgerRow],
    plot: Path,
    manifest: Path,
) -> None:
    run = logger.experiment
    details = ("config_hash", "git_commit", "versions", "hardware", "command")
    run.config.update(
        {**record["config"], "run": {key: record.get(key) for key in details}},
        allow_val_change=True,
    )
    size, metrics = record["size"], record["metrics"]
    points = wandb.Table(
        columns=["model", "stored MB", MAIN_METRIC],
        data=[
            [which, size[key] / MEGABYTE, metrics[which][MAIN_METRIC]]
            for which, key in [("dense", "dense_bytes"), ("compressed", "artifact_bytes")]
            if MAIN_METRIC in metrics[which]
        ],
    )
    run.log(
        {
            "ledger": wandb.Table(
                columns=[field.name for field in fields(LedgerRow)],
                data=[list(astuple(row)) for row in ledger],
            ),
            "accuracy_vs_size": wandb.plot.scatter(
                points, "stored MB", MAIN_METRIC, title="accuracy against stored size"
            ),
            "accuracy_vs_size_image": wandb.Image(str(plot)),
        }
    )
    run.summary.update(dict(scalars))
    artifact = wandb.Artifact(f"manifest-{run.id}", type="manifest")
    artifact.add_file(str(manifest))
    run.log_artifact(artifact)


def finish(*, failed: bool = False) -> None:
    """End the W&B run of this job, if there is one; for a `finally`.

    Without it the next job of a sweep would write into this one's run.
    """
    if wandb.run is None:
        return
    try:
        wandb.finish(exit_code=int(failed))
    except (wandb.Error, OSError) as error:
        log.warning("W&B: the run did not end cleanly (%s); local results are complete", error)
