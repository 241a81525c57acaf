"""Runs put together that can be compared: one dense model, scored on one split of one data set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcompress.records.schema import Record
from mmcompress.records.settings import config_hash
from mmcompress.report.metrics import main_metric, metrics_in
from mmcompress.report.summary import Summary, summarize

NOT_SCORED = ("batch_size", "eval_batch_size", "calibration_size", "num_workers", "augment")
"""Settings of the data that change what is trained on, not what is scored."""


@dataclass(frozen=True)
class Section:
    """What one table and one pair of pictures show.

    Attributes:
        name: backbone, data and split.
        metric: what it is about.
        records: its finished runs.
        summaries: one per configuration, the largest artifact first.
    """

    name: str
    metric: str
    records: Sequence[Record]
    summaries: Sequence[Summary]


def sections(records: Sequence[Record], metric: str | None = None) -> list[Section]:
    """Sections of finished runs, the one with the most runs first.

    Args:
        records: finished runs.
        metric: sections in which no run has it are left out; each its own main metric when None.
    Raises:
        ValueError: there are no runs, or none has `metric`.
    """
    if not records:
        raise ValueError("no finished run to make a table of: run train.py first")
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(config_hash(_scored(record.config), without_seed=True), []).append(record)
    if metric is not None:
        groups = {key: group for key, group in groups.items() if metric in metrics_in(group)}
        if not groups:
            known = ", ".join(metrics_in(records)) or "none"
            raise ValueError(f"no run holds the metric {metric!r}; those there are: {known}")
    ordered = sorted(groups.values(), key=len, reverse=True)
    names = _unlike([_name(group[0].config) for group in ordered])
    return [
        Section(name, metric or main_metric(group), group, summarize(group))
        for name, group in zip(names, ordered, strict=True)
    ]


def _scored(config: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that says which dense model is scored on what."""
    data = {k: v for k, v in (config.get("data") or {}).items() if k not in NOT_SCORED}
    split = (config.get("evaluation") or {}).get("split")
    return {
        "run_dir": config.get("run_dir"),
        "backbone": config.get("backbone"),
        "data": data,
        "split": split,
    }


def _name(config: Mapping[str, Any]) -> str:
    split = (config.get("evaluation") or {}).get("split")
    parts = [" ".join(_words(config.get(key) or {})) for key in ("backbone", "data")]
    return f"{parts[0]} on {parts[1]}{f', {split}' if split else ''}"


def _words(node: Mapping[str, Any]) -> Iterator[str]:
    """What somebody named in a node, without folders; else what it builds."""
    keys = ("name", "name_or_path", "pretrained", "folder", "dataset", "root", "annotations")
    found = [str(node[key]).rstrip("/").rpartition("/")[2] for key in keys if node.get(key)]
    yield from found or [str(node.get("_target_", "data")).rpartition(".")[2]]


def _unlike(names: Sequence[str]) -> list[str]:
    """Names with a number behind those that occurred before."""
    return [
        f"{name} ({names[:i].count(name) + 1})" if name in names[:i] else name
        for i, name in enumerate(names)
    ]
