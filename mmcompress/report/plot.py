"""Accuracy against what it costs, one column of a paper wide."""

import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmcompress.report.axes import furnish, set_limits
from mmcompress.report.labels import place_labels
from mmcompress.report.metrics import lower_is_better, scale
from mmcompress.system.files import write_atomically

# Okabe and Ito's palette, which the color-blind can tell apart.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, MUTED = "#222222", "#767676"
STYLES = {
    "low rank": (PALETTE[0], "o"),
    "pruning": (PALETTE[1], "s"),
    "quantization": (PALETTE[2], "D"),
    "sharing": (PALETTE[3], "^"),
    "stack": (PALETTE[4], "v"),
    "other": (PALETTE[5], "P"),
    "none": (MUTED, "h"),
    "float16": (INK, "p"),
}
"""Family → color and marker, the same in every picture."""

COLUMN = 3.3
"""Inches: the width of one column of a paper in two columns."""

FAR = 0.25
"""A value worse than the dense one by more than this share of it is drawn at the edge;"""
USUAL = 3.0
"""one that loses more than this times what four of five lose, too, unless it is on the front."""

MOST_LABELS = 7
"""More names than this cannot be read in one column."""


@dataclass(frozen=True)
class Mark:
    """One point.

    Attributes:
        cost: where it stands on the horizontal axis.
        value: of the metric, as measured.
        std, cost_std: over seeds, None for one.
        label: its name.
        family: whose color it has.
        peer: another library's: gray, and no part of the front.
        runtime: what ran it, where that is not PyTorch: it is outlined.
    """

    cost: float
    value: float
    std: float | None = None
    cost_std: float | None = None
    label: str = ""
    family: str = "other"
    peer: bool = False
    runtime: str = ""


@dataclass(frozen=True)
class Costs:
    """The horizontal axis.

    Attributes:
        label: with its unit.
        log: for sizes, whose ratios count.
    """

    label: str
    log: bool = False


SIZE = Costs("stored size (MB of 10⁶ bytes, log scale)", log=True)


def pareto_figure(
    marks: Sequence[Mark],
    dense: Sequence[Mark],
    metric: str,
    costs: Costs,
    *,
    width: float = COLUMN,
    height: float = 0.88 * COLUMN,
    labels: bool = True,
) -> Figure:
    """Points by family, error bars over seeds, and the line of those that none beats in both.

    Values far below the others stand at the edge of the picture, hollow: see `FAR` and `USUAL`.

    Args:
        marks: what is compared; a family's own best are joined by a thin line.
        dense: the uncompressed models.
        metric: what the values are; says which direction is better.
        costs: what the horizontal axis is; smaller is better.
        width, height: inches.
        labels: write the names of the best beside them.
    """
    figure = Figure(figsize=(width, height), dpi=300, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    furnish(axes, costs.label, metric)
    edge = _edge(marks, dense, metric)
    shown = [_shown(mark, metric, edge) for mark in marks]
    references = [(mark.cost, scale(metric) * mark.value) for mark in dense]
    bars = _bars(marks, shown, metric, edge)
    set_limits(axes, [*(end for bar in bars for end in bar), *references], log=costs.log)
    for _, value in references:
        axes.axhline(value, color=MUTED, linewidth=0.7, linestyle=(0, (4, 3)), zorder=1)
    lines = _front_lines(axes, marks, shown, metric)
    _draw_points(axes, marks, shown, metric, edge)
    axes.plot(*zip(*references, strict=True), "D", color=INK, markersize=5, label="uncompressed")
    for runtime in dict.fromkeys(mark.runtime for mark in marks if mark.runtime):
        label = f"outlined: {runtime}"
        axes.plot([], [], "o", mfc="none", color=INK, markersize=4, mew=0.8, label=label)
    hidden = sum(_beyond(mark, metric, edge) for mark in marks)
    if hidden:
        text = f"hollow: {hidden} lie {'above' if lower_is_better(metric) else 'below'}"
        axes.plot([], [], "v", mfc="none", color=MUTED, markersize=4, label=text)
    figure.legend(
        loc="outside lower center",
        ncols=int(width / 1.1),
        fontsize=6.5,
        frameon=False,
        handletextpad=0.3,
        columnspacing=1.0,
        borderpad=0.2,
    )
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # settled: names find their place in it
    if labels:
        named = _named(marks, metric)
        left, right = axes.get_xlim()
        dashed = [[(left, value), (right, value)] for _, value in references]
        place_labels(
            axes,
            [*(shown[i] for i in named), *shown, *references],
            [marks[i].label for i in named],
            lines=[*lines, *dashed, *bars],
            color=MUTED,
            font_size=6,
        )
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a PNG or an SVG, by the suffix; equal figures give equal files."""
    write_atomically(path, lambda file: file.write(rendered(figure, path.suffix[1:])))


def rendered(figure: Figure, form: str, *, text: bool = False) -> bytes:
    """The picture as a file.

    Args:
        form: `png` or `svg`.
        text: keep words in an SVG as text, for a page that brings a font along.
    """
    file = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "mmcompress", "svg.fonttype": "none" if text else "path"}):
        figure.savefig(file, format=form, metadata={"Date": None} if form == "svg" else None)
    return file.getvalue()


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats in both cost and value, by growing cost.

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


def best_of(marks: Sequence[Mark], metric: str) -> list[int]:
    """Indices of our marks on the front, whichever direction of the metric is better."""
    ours = [i for i, mark in enumerate(marks) if not mark.peer]
    sign = -1 if lower_is_better(metric) else 1
    return [ours[i] for i in front([(marks[i].cost, sign * marks[i].value) for i in ours])]


def _edge(marks: Sequence[Mark], dense: Sequence[Mark], metric: str) -> float:
    """The worst value that is drawn where it is."""
    sign = -1 if lower_is_better(metric) else 1
    reference = min(sign * mark.value for mark in dense)
    losses = [reference - sign * mark.value for mark in marks]
    far = FAR * abs(reference)
    best = [losses[i] for i in best_of(marks, metric) if losses[i] <= far]
    usual = USUAL * float(np.quantile(losses, 0.8))
    return sign * (reference - min(far, max([usual, *best])))


def _beyond(mark: Mark, metric: str, edge: float) -> bool:
    return mark.value > edge if lower_is_better(metric) else mark.value < edge


def _shown(mark: Mark, metric: str, edge: float) -> tuple[float, float]:
    value = edge if _beyond(mark, metric, edge) else mark.value
    return mark.cost, scale(metric) * value


def _front_lines(
    axes: Axes, marks: Sequence[Mark], shown: Sequence[tuple[float, float]], metric: str
) -> list[list[tuple[float, float]]]:
    """The front of all in ink, that of each family in its color."""
    lines = [[shown[i] for i in best_of(marks, metric)]]
    axes.plot(*zip(*lines[0], strict=True), color=INK, linewidth=2.2, alpha=0.18, zorder=2)
    for family in dict.fromkeys(mark.family for mark in marks if not mark.peer):
        own = [i for i, mark in enumerate(marks) if mark.family == family and not mark.peer]
        best = [shown[own[i]] for i in best_of([marks[i] for i in own], metric)]
        color, _ = _style(family)
        axes.plot(*zip(*best, strict=True), color=color, linewidth=0.7, alpha=0.7, zorder=2)
        lines.append(best)
    return lines


def _draw_points(
    axes: Axes,
    marks: Sequence[Mark],
    shown: Sequence[tuple[float, float]],
    metric: str,
    edge: float,
) -> None:
    """One collection per family; its `gid` is `family:INDICES` of the marks, for the page."""
    unit = scale(metric)
    best = set(best_of(marks, metric))
    grays = itertools.cycle("x+12")
    families: dict[str, list[int]] = {}
    for i, mark in enumerate(marks):
        families.setdefault(mark.family, []).append(i)
    for family, members in sorted(families.items(), key=lambda item: _rank(item[0])):
        color, marker = _style(family)
        outlined = [i for i in members if marks[i].runtime]
        if marks[members[0]].peer:
            color, marker = MUTED, next(grays)
        axes.plot([], [], marker, color=color, markersize=4, label=family, mew=0.8)
        kinds = {
            "best": [i for i in members if i in best and not _beyond(marks[i], metric, edge)],
            "rest": [i for i in members if i not in best and not _beyond(marks[i], metric, edge)],
            "edge": [i for i in members if _beyond(marks[i], metric, edge)],
        }
        groups = [
            (kind, [i for i in group if (i in outlined) == rim], rim)
            for kind, group in kinds.items()
            for rim in (False, True)
        ]
        for kind, group, rim in groups:
            if not group:
                continue
            bare, peer = kind == "edge", marks[group[0]].peer
            if not bare:  # what stands at the edge stands not where it is
                _error_bars(axes, [marks[i] for i in group], unit, color)
            if peer:  # the markers of peers have no face
                axes.plot(
                    *zip(*(shown[i] for i in group), strict=True),
                    "v" if bare else marker,
                    color=MUTED,
                    mfc="none",
                    markersize=4,
                    mew=0.8,
                    zorder=3,
                )
            else:
                axes.scatter(
                    [shown[i][0] for i in group],
                    [shown[i][1] for i in group],
                    s={"best": 26, "rest": 14, "edge": 14}[kind],
                    marker=marker,
                    facecolor=(1, 1, 1, 0) if bare else color,
                    edgecolor=color if bare else INK if rim else "white",
                    linewidth=0.8 if rim else 0.5,
                    zorder=4 if kind == "best" else 3,
                    clip_on=False,
                    gid="marks:" + ",".join(map(str, group)),
                )


def _error_bars(axes: Axes, marks: Sequence[Mark], unit: float, color: str) -> None:
    """Standard deviations of those marks that have one."""
    spread = [mark for mark in marks if mark.std is not None or mark.cost_std is not None]
    across = any(mark.cost_std is not None for mark in spread)
    if spread:
        axes.errorbar(
            [mark.cost for mark in spread],
            [unit * mark.value for mark in spread],
            yerr=[unit * (mark.std or 0.0) for mark in spread],
            xerr=[mark.cost_std or 0.0 for mark in spread] if across else None,
            fmt="none",
            ecolor=color,
            capsize=1.5,
            capthick=0.6,
            elinewidth=0.6,
            zorder=3,
        )


def _bars(
    marks: Sequence[Mark], shown: Sequence[tuple[float, float]], metric: str, edge: float
) -> list[list[tuple[float, float]]]:
    """Both error bars of each mark, as lines: they fit into the frame, and names keep away."""
    bars = []
    for mark, (x, y) in zip(marks, shown, strict=True):
        across, up = mark.cost_std or 0.0, scale(metric) * (mark.std or 0.0)
        if _beyond(mark, metric, edge):  # it has none
            across = up = 0.0
        bars += [[(x - across, y), (x + across, y)], [(x, y - up), (x, y + up)]]
    return bars


def _rank(family: str) -> tuple[bool, int]:
    """Families in the order of `STYLES`, then others."""
    return family not in STYLES, list(STYLES).index(family) if family in STYLES else 0


def _style(family: str) -> tuple[str, str]:
    return STYLES.get(family, STYLES["other"])


def _named(marks: Sequence[Mark], metric: str) -> list[int]:
    """Whose names are written: all where few, else those on the front, evenly thinned out."""
    named = [i for i, mark in enumerate(marks) if mark.label and not mark.peer]
    if len(named) > MOST_LABELS:
        named = [i for i in best_of(marks, metric) if marks[i].label]
    step = -(-len(named) // MOST_LABELS) if named else 1
    return named[::step]
