"""Accuracy against stored size, as a picture."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mmcompress.files import write_atomically
from mmcompress.report.console import is_percent
from mmcompress.report.labels import place_labels
from mmcompress.report.summary import Summary, summarise
from mmcompress.report.table import MAIN_METRIC, MEGABYTE

# Okabe and Ito's palette, which the colour-blind can tell apart.
BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#8A8A8A"
PALETTE = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LOG_FROM = 4.0
"""Largest over smallest size from which the size axis is logarithmic."""


def accuracy_vs_size(
    records: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    metric: str | None = None,
    title: str | None = None,
) -> None:
    """Draw one point per configuration and the dense model they started from; write a PNG.

    Error bars are the standard deviation over seeds. The line joins the recipes that no other one
    beats in both size and accuracy.

    Args:
        records: finished runs of one backbone on one data set, as `read_records` gives them.
        path: the PNG.
        metric: one of every run's `metrics`; mean recall when None, or where the first run does
            not have it, its first metric.
        title: made from the metric and the split when None.
    Raises:
        ValueError: no record holds `metric`.
    """
    metric = metric or _main_metric(records)
    summaries = [s for s in summarise(records) if metric in s.compressed and metric in s.dense]
    if not summaries:
        raise ValueError(f"no run holds the metric {metric!r}: nothing to draw")
    split = records[0]["config"].get("evaluation", {}).get("split")
    what = f"{metric.rpartition('/')[2].replace('_', ' ')}{f' on {split}' if split else ''}"
    figure = Figure(figsize=(7.2, 4.5), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    heading = title or f"{what[0].upper()}{what[1:]} against stored size"
    axes.set_title(heading, loc="left", fontsize=11, pad=20)
    legend = (
        f"dashed: the dense model · ×: how much smaller than its {summaries[0].dense_dtype} file"
    )
    if len(summaries) > 1:
        legend += " · line: recipes that no other beats in both"
    axes.text(0, 1.025, legend, transform=axes.transAxes, fontsize=8, color="#555555")
    axes.set_xlabel("stored size (MB of 10⁶ bytes)")
    axes.set_ylabel(f"{what} (%)" if is_percent(metric) else what)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    _draw(axes, summaries, metric)
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


@dataclass(frozen=True)
class Mark:
    """One point of `families_plot`.

    Attributes:
        bytes: stored size.
        value: of the metric, in [0, 1].
        std: over seeds, None for one.
        label: written beside it; empty for none.
    """

    bytes: float
    value: float
    std: float | None = None
    label: str = ""


def families_plot(
    families: Mapping[str, Sequence[Mark]],
    peers: Mapping[str, Sequence[Mark]],
    dense: Mark,
    path: Path,
    *,
    metric: str = MAIN_METRIC,
    lowest: float = 0.0,
) -> None:
    """Draw accuracy against bytes, one line per family, other libraries as points; write a PNG.

    A family's line joins those of its points that none of its own beats in size and accuracy.

    Args:
        families: name → our points.
        peers: library → its points.
        dense: the uncompressed model.
        path: the PNG.
        metric: what the values are.
        lowest: values below are not drawn; how many is said in the legend.
    """
    figure = Figure(figsize=(7.2, 5.0), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xlabel("stored size (MB of 10⁶ bytes)")
    axes.set_ylabel(f"{metric.rpartition('/')[2].replace('_', ' ')} (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color="#E6E6E6", linewidth=0.6)
    axes.set_axisbelow(True)
    everything = [m for marks in [*families.values(), *peers.values(), [dense]] for m in marks]
    shown = [m for m in everything if m.value >= lowest]
    _scale(axes, [(m.bytes / MEGABYTE, 100 * m.value) for m in shown])
    axes.axhline(100 * dense.value, color="#555555", linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)
    styles = itertools.cycle(zip(PALETTE, "osD^vP", strict=True))
    for (name, marks), (colour, marker) in zip(families.items(), styles, strict=False):
        kept, label = _above(lowest, name, marks)
        points = [(m.bytes / MEGABYTE, 100 * m.value) for m in kept]
        best = [points[i] for i in front(points)]
        axes.plot([], [], color=colour, marker=marker, linewidth=1.2, label=label)
        if best:
            axes.plot(*zip(*best, strict=True), color=colour, linewidth=1.2, alpha=0.7, zorder=2)
        for mark, point in zip(kept, points, strict=True):
            error = None if mark.std is None else 100 * mark.std
            axes.errorbar(
                *point,
                yerr=error,
                color=colour,
                marker=marker,
                markersize=6,
                capsize=2.5,
                markeredgecolor="white",
                linewidth=1,
                zorder=4,
            )
    for (name, marks), marker in zip(peers.items(), itertools.cycle("x+12"), strict=False):
        kept, label = _above(lowest, name, marks)
        axes.plot(
            [m.bytes / MEGABYTE for m in kept],
            [100 * m.value for m in kept],
            color=GREY,
            marker=marker,
            linestyle="none",
            label=label,
            zorder=3,
        )
    axes.plot(dense.bytes / MEGABYTE, 100 * dense.value, "D", color="#222222", label="dense")
    labelled = [m for m in shown if m.label]
    place_labels(
        axes,
        [(m.bytes / MEGABYTE, 100 * m.value) for m in labelled],
        [m.label for m in labelled],
        color=GREY,
    )
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    write_atomically(path, lambda file: figure.savefig(file, format="png"))


def _above(lowest: float, name: str, marks: Sequence[Mark]) -> tuple[list[Mark], str]:
    """What is drawn, and what the legend says, with how many are not."""
    kept = [m for m in marks if m.value >= lowest]
    below = len(marks) - len(kept)
    return kept, f"{name} ({below} below {100 * lowest:.1f} %)" if below else name


def _main_metric(records: Sequence[Mapping[str, Any]]) -> str:
    names = list(records[0]["metrics"]["compressed"]) if records else []
    return MAIN_METRIC if MAIN_METRIC in names else next(iter(names), MAIN_METRIC)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both size and value, by growing size.

    Example:
        >>> front([(2.0, 0.5), (1.0, 0.4), (3.0, 0.45)])
        [1, 0]
    """
    best, kept = float("-inf"), []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            best = points[i][1]
            kept.append(i)
    return kept


def _draw(axes: Axes, summaries: Sequence[Summary], metric: str) -> None:
    scale = 100 if is_percent(metric) else 1
    points = [
        (s.size["artifact_bytes"].mean / MEGABYTE, scale * s.compressed[metric].mean)
        for s in summaries
    ]
    dense = {  # One, unless the runs started from different models.
        (s.size["dense_bytes"].mean / MEGABYTE, scale * s.dense[metric].mean): s.dense_dtype
        for s in summaries
    }
    _scale(axes, [*points, *dense])
    best = [points[i] for i in front(points)]
    axes.plot(*zip(*best, strict=True), color=BLUE, linewidth=1.0, alpha=0.45, zorder=2)
    left, right = axes.get_xlim()
    lines = [best, *([(left, value), (right, value)] for _, value in dense)]
    for size, value in dense:
        axes.axhline(value, color=VERMILION, linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)
        (mark,) = axes.plot(size, value, marker="D", markersize=7, color=VERMILION, zorder=3)
        mark.set_markeredgecolor("white")
    for (size, value), summary in zip(points, summaries, strict=True):
        std = summary.compressed[metric].std
        if std is not None:
            axes.errorbar(size, value, yerr=scale * std, color=BLUE, capsize=2.5, linewidth=1)
            lines.append([(size, value - scale * std), (size, value + scale * std)])
        axes.plot(size, value, marker="o", markersize=6.5, color=BLUE, markeredgecolor="white")
    labels = [_label(summary) for summary in summaries]
    place_labels(
        axes,
        [*points, *dense],
        [*labels, *(f"dense, {dtype}\n{size:.1f} MB" for (size, _), dtype in dense.items())],
        lines=lines,
        color=GREY,
    )


def _label(summary: Summary) -> str:
    """Recipe, settings and ratio, each on its line."""
    name, _, settings = summary.name.partition(" (")
    ratio = f"{summary.size['compression_ratio'].mean:.1f}×"
    return "\n".join([name, f"({settings}", ratio] if settings else [name, ratio])


def _scale(axes: Axes, points: Sequence[tuple[float, float]]) -> None:
    """Limits with room for labels; a logarithmic size axis with plain numbers when it is long."""
    sizes, values = [p[0] for p in points], [p[1] for p in points]
    low, high = min(sizes), max(sizes)
    if high / low >= LOG_FROM:
        margin = (high / low) ** 0.12
        axes.set_xscale("log")
        axes.set_xlim(low / margin, high * margin)
        steps = [m * 10.0**e for e in range(-4, 7) for m in (1, 2, 5)]
        axes.xaxis.set_major_locator(FixedLocator([s for s in steps if low / 2 <= s <= high * 2]))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        margin = 0.15 * (high - low) or 0.2 * high
        axes.set_xlim(max(0.0, low - margin), high + margin)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    # Never less than 5 % of the value itself: noise should look like noise.
    span = max(values) - min(values)
    room = max(0.18 * span, (0.05 * max(map(abs, values)) - span) / 2) or 1.0
    axes.set_ylim(min(values) - room, max(values) + room)
