"""From summaries of runs to pictures of them."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from mmcompress.records.schema import Record
from mmcompress.report.metrics import main_metric
from mmcompress.report.plot import SIZE, Costs, Mark, pareto_figure, save
from mmcompress.report.summary import Summary, summarize
from mmcompress.report.table import MEGABYTE, largest_batch

DEPLOYED = "ONNX Runtime"
"""What a point of the deployed model is called; one of PyTorch has no name."""


def accuracy_vs_size(records: Sequence[Record], path: Path, *, metric: str | None = None) -> None:
    """Draw one point per configuration and the dense model they started from; write a PNG or SVG.

    Args:
        records: finished runs of one backbone on one data set, as `read_records` gives them.
        path: its suffix says which.
        metric: one of the runs' `metrics`; the main one when None.
    Raises:
        ValueError: no record holds `metric`.
    """
    metric = metric or main_metric(records)
    marks, dense = size_marks(summarize(records), metric)
    if not marks:
        raise ValueError(f"no run holds the metric {metric!r}: nothing to draw")
    save(pareto_figure(list(marks.values()), dense, metric, SIZE), path)


def size_marks(summaries: Sequence[Summary], metric: str) -> tuple[dict[int, Mark], list[Mark]]:
    """Points over stored megabytes.

    Returns:
        Index of the summary → its mark, of those that have the metric; and one mark for each
        dense model.
    """
    marks = {
        i: Mark(
            s.size["artifact_bytes"].mean / MEGABYTE,
            s.compressed[metric].mean,
            std=s.compressed[metric].std,
            label=s.name,
            family=s.family,
        )
        for i, s in enumerate(summaries)
        if metric in s.compressed and metric in s.dense
    }
    dense = {
        (summaries[i].size["dense_bytes"].mean / MEGABYTE, summaries[i].dense[metric].mean)
        for i in marks
    }
    return marks, [Mark(*point) for point in sorted(dense)]


def latency_marks(
    summaries: Sequence[Summary], metric: str
) -> tuple[dict[tuple[int, str], Mark], list[Mark], Costs]:
    """Points over the latency of the largest batch, as a share of the dense model's.

    Absolute times of two runs compare what else their machines did; dense and compressed of one
    run were measured in turn, in the same runtime. In PyTorch, methods that cannot be faster have
    no latency and are not there.

    Returns:
        Index of the summary and runtime → its mark, of those that have the metric; one mark for
        each dense model; and the axis.
    """
    batch = largest_batch(summaries) or ""
    marks = {
        (i, runtime): Mark(
            latency[batch].mean,
            s.compressed[metric].mean,
            std=s.compressed[metric].std,
            cost_std=latency[batch].std,
            label=f"{s.name}, {runtime}" if runtime else s.name,
            family=s.family,
            runtime=runtime,
        )
        for i, s in enumerate(summaries)
        for runtime, latency in (("", s.latency), (DEPLOYED, s.deployed))
        if batch in latency and metric in s.compressed and metric in s.dense
    }
    dense = sorted({summaries[i].dense[metric].mean for i, _ in marks})
    known = [summaries[i].dense_ms[batch].mean for i, r in marks if not r]
    typical = f" ≈ {median(known):.3g} ms in PyTorch" if known else ""
    costs = Costs(f"latency, batch {batch} (dense = 1{typical})")
    return marks, [Mark(1.0, value) for value in dense], costs
