"""A Markdown table of recipes, from run records."""

from collections.abc import Mapping, Sequence
from typing import Any

from mmcompress.report.summary import Spread, Summary, summarise

MEGABYTE = 1_000_000

MAIN_METRIC = "retrieval/mean_recall"
SECOND_METRIC = "zeroshot/acc@1"
ABSENT = "–"


def results_table(records: Sequence[Mapping[str, Any]], *, more: Sequence[str] = ()) -> str:
    """One line per configuration; a cell is `mean ± std (n seeds)`, without ± for one seed.

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
    summaries = summarise(records)
    header = (
        "recipe",
        "mean recall, dense (%)",
        "compressed (%)",
        "Δ (points)",
        "zero-shot (%)",
        "stored (MB)",
        f"ratio to {_dense_dtypes(summaries)}",
        "bits/weight",
        *(metric.rpartition("/")[2].replace("_", " ") for metric in more),
    )
    rows = [_row(summary, more) for summary in summaries]
    lines = [header, ("---", *["---:"] * (len(header) - 1)), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def _row(summary: Summary, more: Sequence[str]) -> tuple[str, ...]:
    seeds = f" ({summary.runs} seeds)" if summary.runs > 1 else ""

    def cell(spread: Spread | None, digits: int, scale: float = 1.0, *, sign: bool = False) -> str:
        return ABSENT if spread is None else spread.format(digits, scale=scale, sign=sign) + seeds

    # One dense model for all seeds: there is nothing to spread.
    dense = Spread.of([summary.dense[MAIN_METRIC].mean]) if MAIN_METRIC in summary.dense else None
    return (
        summary.name,
        ABSENT if dense is None else dense.format(1, scale=100),
        cell(summary.compressed.get(MAIN_METRIC), 1, 100),
        cell(summary.delta.get(MAIN_METRIC), 1, 100, sign=True),
        cell(summary.compressed.get(SECOND_METRIC), 1, 100),
        cell(summary.size["artifact_bytes"], 2, 1 / MEGABYTE),
        cell(summary.size["compression_ratio"], 2),
        cell(summary.size["bits_per_weight"], 2),
        *(cell(summary.compressed.get(metric), 4) for metric in more),
    )


def _dense_dtypes(summaries: Sequence[Summary]) -> str:
    return ", ".join(dict.fromkeys(f"dense {summary.dense_dtype}" for summary in summaries))
