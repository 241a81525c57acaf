"""The table of recipes: what stands in it. `formats.py` writes it down."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmcompress.records.schema import Interval, Record
from mmcompress.report.formats import ABSENT, Cell, Table, markdown
from mmcompress.report.metrics import (
    MAIN_METRIC,
    PREFERRED,
    digits,
    format_interval,
    is_percent,
    main_metric,
    metrics_in,
    scale,
    title,
)
from mmcompress.report.summary import Spread, Summary, summarize

__all__ = ["ABSENT", "MAIN_METRIC", "MEGABYTE", "recipes_table", "results_table"]

MEGABYTE = 1_000_000


def results_table(records: Sequence[Record], *, more: Sequence[str] = ()) -> str:
    """Markdown, one line per configuration; a cell is `mean ± std (n seeds)`, or one seed's value.

    The standard deviation is that of a sample (n − 1). Recalls and accuracies are in percent, Δ in
    points, sizes in MB of 10⁶ bytes.

    Args:
        records: finished runs, as `read_records` gives them.
        more: metrics of the compressed model that get a column of their own, as they are.
    Raises:
        ValueError: there are none.
    """
    if not records:
        raise ValueError("no finished run to make a table of: run train.py first")
    return markdown(recipes_table(summarize(records), main_metric(records), more=more))


def recipes_table(
    summaries: Sequence[Summary],
    metric: str,
    *,
    more: Sequence[str] = (),
    latency: bool = False,
) -> Table:
    """One row per summary.

    Args:
        metric: dense, compressed and Δ, with 95 % intervals and the number of test items where
            they were measured; the others of `PREFERRED` that were measured stand beside it.
        more: metrics of the compressed model that get a column of their own, as they are.
        latency: whether there is a column for it, where any was measured.
    """
    columns = list(_columns(summaries, metric, more, latency))
    return Table(
        header=("recipe", *(name for name, _ in columns)),
        names=tuple(summary.name for summary in summaries),
        seeds=tuple(summary.runs for summary in summaries),
        rows=tuple(zip(*(cells for _, cells in columns), strict=True)),
    )


@dataclass(frozen=True)
class _Format:
    """How the numbers of a column are written."""

    digits: int
    scale: float = 1.0
    sign: bool = False

    def cells(
        self, spreads: Sequence[Spread | None], bounds: Sequence[str | None] | None = None
    ) -> list[Cell]:
        """With intervals, as `format_interval` writes them, where there are some."""
        return [
            Cell(ABSENT, None)
            if spread is None
            else Cell(
                spread.format(self.digits, scale=self.scale, sign=self.sign)
                + (f" {between}" if between else ""),
                spread.mean,
                repeated=spread.n > 1,
            )
            for spread, between in zip(spreads, bounds or [None] * len(spreads), strict=True)
        ]


def _columns(
    summaries: Sequence[Summary], metric: str, more: Sequence[str], latency: bool
) -> Iterator[tuple[str, list[Cell]]]:
    def compressed(name: str) -> list[Spread | None]:
        return [summary.compressed.get(name) for summary in summaries]

    main = _Format(digits(metric), scale(metric))
    # One dense model for all seeds: there is nothing to spread.
    dense = [s.dense[metric].mean if metric in s.dense else None for s in summaries]
    unit = " (%)" if is_percent(metric) else ""
    yield (
        f"{title(metric)}, dense{unit}",
        main.cells([None if value is None else Spread.of([value]) for value in dense]),
    )
    yield f"compressed{unit}", main.cells(compressed(metric), _bounds(summaries, metric))
    delta = _Format(main.digits, main.scale, sign=True)
    yield (
        "Δ (points)" if unit else "Δ",
        delta.cells(
            [summary.delta.get(metric) for summary in summaries],
            _bounds(summaries, metric, "delta"),
        ),
    )
    items = [entry.items if (entry := s.intervals.get(metric)) else None for s in summaries]
    if any(items):
        yield "test items", [Cell(ABSENT if n is None else f"{n:,.0f}", n) for n in items]
    found = {name for summary in summaries for name in summary.compressed}
    for other in (name for name in PREFERRED if name in found and name != metric):
        form = _Format(digits(other), scale(other))
        yield title(other, unit=True), form.cells(compressed(other))
    dtypes = ", ".join(dict.fromkeys(f"dense {summary.dense_dtype}" for summary in summaries))
    sizes = (
        ("stored (MB)", "artifact_bytes", _Format(2, 1 / MEGABYTE)),
        (f"ratio to {dtypes}", "compression_ratio", _Format(2)),
        ("bits/weight", "bits_per_weight", _Format(2)),
    )
    for name, key, form in sizes:
        yield name, form.cells([summary.size[key] for summary in summaries])
    batch = largest_batch(summaries) if latency else None
    if batch is not None:
        for where, name in (("latency", "latency"), ("deployed", "latency in ONNX Runtime")):
            ratios = [getattr(summary, where).get(batch) for summary in summaries]
            if any(ratios):
                yield f"{name}, batch {batch} (dense = 1)", _Format(2).cells(ratios)
    for name in more:
        yield name.rpartition("/")[2].replace("_", " "), _Format(4).cells(compressed(name))


def _bounds(
    summaries: Sequence[Summary], metric: str, which: str = "compressed"
) -> list[str | None]:
    """The intervals of a column as text."""
    sign = which == "delta"
    found = [getattr(s.intervals.get(metric), which, None) for s in summaries]
    return [b and format_interval(metric, b, digits(metric), sign=sign) for b in found]


def largest_batch(summaries: Sequence[Summary]) -> str | None:
    """The largest batch size at which some compressed model was measured."""
    found = {b for summary in summaries for b in (*summary.latency, *summary.deployed)}
    return max(found, key=int, default=None)


def all_values(name: str, summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """Everything measured, as plain numbers for a CSV file: one dict per summary.

    Args:
        name: of the section.
    """
    metrics = metrics_in([record for summary in summaries for record in summary.records])
    rows = []
    for summary in summaries:
        row: dict[str, Any] = {
            "section": name,
            "recipe": summary.name,
            "family": summary.family,
            "seeds": summary.runs,
            "dense_dtype": summary.dense_dtype,
        }
        for metric in metrics:
            row |= _numbers(f"dense/{metric}", summary.dense.get(metric))
            row |= _numbers(metric, summary.compressed.get(metric))
            row |= _numbers(f"delta/{metric}", summary.delta.get(metric))
            row |= _interval_numbers(metric, summary.intervals.get(metric))
        for key, spread in summary.size.items():
            row |= _numbers(key, spread)
        for batch, spread in summary.latency.items():
            row |= _numbers(f"latency_ratio_batch_{batch}", spread)
        for batch, spread in summary.deployed.items():
            row |= _numbers(f"deployed_latency_ratio_batch_{batch}", spread)
        rows.append(row)
    return rows


def _interval_numbers(metric: str, entry: Interval | None) -> dict[str, float]:
    """Bounds of the three intervals, and the number of test items."""
    if entry is None:
        return {}
    named = {"compressed": metric, "dense": f"dense/{metric}", "delta": f"delta/{metric}"}
    return {f"{metric} items": entry.items} | {
        f"{name} {end}": bound
        for which, name in named.items()
        for end, bound in zip(("low", "high"), getattr(entry, which) or (), strict=False)
    }


def _numbers(name: str, spread: Spread | None) -> dict[str, float | None]:
    if spread is None:
        return {}
    return {name: spread.mean, f"{name} std": spread.std}
