"""What loggers get of a finished run: its numbers, and W&B all that tells its story."""

import json
import re
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import Logger, WandbLogger

from mmcompress.artifact.folder import Artifact
from mmcompress.artifact.ledger import LedgerRow
from mmcompress.compression.compressed import Plan
from mmcompress.format.manifest import MANIFEST_FILE, files_of
from mmcompress.records.schema import Record
from mmcompress.records.values import summary_values
from mmcompress.report.metrics import lower_is_better, main_metric, title
from mmcompress.report.plot import front
from mmcompress.report.table import MEGABYTE

DETAILS = ("runtime", "config_hash", "git_commit", "versions", "hardware", "command", "starts")
"""Of the run record, beside the configuration."""


@dataclass(frozen=True)
class Results:
    """A finished run, for loggers.

    Attributes:
        record: as `run.json` has it, which is written before.
        siblings: finished runs that it may be compared with, itself among them.
        artifact: what it has stored.
        ledger: `Artifact.ledger()`.
        plan: `Recipe.plan`.
        plot: the PNG of accuracy against size; it need not exist.
    """

    record: Record
    siblings: Sequence[Record]
    artifact: Artifact
    ledger: Sequence[LedgerRow]
    plan: Plan
    plot: Path


def log_results(logger: Logger, results: Results) -> None:
    """Copy a finished run to a logger: to W&B all of it, to others the numbers.

    W&B gets config, summary (metrics, bytes, ratio, latency), ledger and plan as tables, accuracy
    against size as a chart with the dense model as a line, and as the picture; and two artifacts,
    the dense checkpoint that was used and the compressed model that came of it.
    """
    scalars = summary_values(results.record)
    if not isinstance(logger, WandbLogger):
        logger.log_metrics(scalars)
        logger.save()
        return
    run, record = logger.experiment, results.record
    details = {key: getattr(record, key) for key in DETAILS}
    run.config.update({**record.config, "run": details}, allow_val_change=True)
    pictures = {"accuracy_vs_size_image": results.plot} if results.plot.exists() else {}
    run.log(
        {
            "ledger": wandb.Table(
                columns=[field.name for field in fields(LedgerRow)],
                data=[list(astuple(row)) for row in results.ledger],
            ),
            "plan": wandb.Table(
                columns=["step", "target", "decision"], data=plan_rows(results.plan)
            ),
            **{name: wandb.Image(str(path)) for name, path in pictures.items()},
            **_chart(results),
        }
    )
    run.summary.update(scalars)
    _use(run, _dense_artifact(record, results.artifact))
    run.log_artifact(_compressed_artifact(record, results.artifact))


def plan_rows(plan: Plan) -> list[list[str]]:
    """Step, target and decision (JSON) of every target.

    Example:
        >>> plan_rows({"int4": {"a.weight": {"bits": 4}}})
        [['int4', 'a.weight', '{"bits": 4}']]
    """
    return [
        [step, target, json.dumps(decision)]
        for step, decisions in plan.items()
        for target, decision in decisions.items()
    ]


Line = list[tuple[float, float]]


def chart_lines(record: Record, siblings: Sequence[Record], metric: str) -> dict[str, Line]:
    """Accuracy over stored megabytes: the dense model as a level line, and the runs that no other
    one beats in both, which end in it.

    Args:
        record: of the run.
        siblings: runs that it may be compared with, itself among them.
        metric: that the run has.
    """
    points = [
        (other.stored.artifact_bytes / MEGABYTE, other.metrics.compressed[metric])
        for other in siblings
        if metric in other.metrics.compressed
    ]
    dense = (record.stored.dense_bytes / MEGABYTE, record.metrics.dense[metric])
    sign = -1 if lower_is_better(metric) else 1
    best = [points[i] for i in front([(size, sign * value) for size, value in points])]
    return {"dense": [(min(points)[0], dense[1]), dense], "compressed": [*best, dense]}


def _chart(results: Results) -> dict[str, Any]:
    metric = main_metric([results.record])
    metrics = results.record.metrics
    if metric not in metrics.compressed or metric not in metrics.dense:
        return {}
    lines = chart_lines(results.record, results.siblings, metric)
    chart = wandb.plot.line_series(
        xs=[[size for size, _ in line] for line in lines.values()],
        ys=[[value for _, value in line] for line in lines.values()],
        keys=list(lines),
        title=f"{title(metric)} against stored size",
        xname="stored MB",
    )
    return {"accuracy_vs_size": chart}


def _dense_artifact(record: Record, artifact: Artifact) -> wandb.Artifact:
    """The dense checkpoint: not its weights but what they hash to, so that all runs that started
    from them point to one artifact."""
    manifest, checksum = artifact.manifest, record.dense_sha256
    assert checksum is not None, "a record with results has it"
    content = {
        "sha256": checksum,
        "adapter": manifest["adapter"],
        "spec": manifest["spec"],
        "dense": manifest["dense"],
    }
    dense = wandb.Artifact(f"dense-{checksum[:16]}", type="model", metadata=content)
    with dense.new_file("dense.json") as file:
        json.dump(content, file, indent=2, sort_keys=True)
    return dense


def _compressed_artifact(record: Record, artifact: Artifact) -> wandb.Artifact:
    """The manifest, and the tensors by reference: they stay where they are."""
    name = re.sub(r"[^\w.-]+", "_", str(record.config.get("name")))[:80]
    compressed = wandb.Artifact(
        f"{name}-{record.config_hash}",
        type="compressed-model",
        metadata={
            "dense_sha256": record.dense_sha256,
            "tensors_sha256": [file["sha256"] for file in artifact.manifest["files"]],
            "artifact_bytes": record.stored.artifact_bytes,
            "metrics": record.metrics.compressed,
        },
    )
    compressed.add_file(str(artifact.folder / MANIFEST_FILE))
    for file in files_of(artifact.manifest):
        compressed.add_reference((artifact.folder / file).absolute().as_uri())
    return compressed


def _use(run: Any, artifact: wandb.Artifact) -> None:
    """`run.use_artifact`, which W&B refuses offline although its offline record can say it: so
    offline this does what that does for an artifact that is not yet on the server."""
    if run.offline:
        run._log_artifact(artifact, aliases=[], is_user_created=True, use_after_commit=True)
    else:
        run.use_artifact(artifact)
