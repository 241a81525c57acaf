"""The frame of a plot that stands in one column of a paper: labels, limits, ticks."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from mmcompress.report.metrics import lower_is_better, title

GRID = "#e3e3e3"


def furnish(axes: Axes, cost: str, metric: str) -> None:
    """Labels with units, thin lines, a light grid.

    Args:
        cost: label of the horizontal axis.
        metric: what the vertical axis is.
    """
    axes.set_xlabel(cost, fontsize=7.5)
    better = "lower is better" if lower_is_better(metric) else ""
    axes.set_ylabel(
        f"{title(metric, unit=True)}{f' ({better})' if better else ''}",
        fontsize=7.5,
        parse_math=False,
    )
    axes.tick_params(labelsize=7, width=0.6, length=2.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_linewidth(0.6)
    axes.grid(visible=True, color=GRID, linewidth=0.5)
    axes.set_axisbelow(True)


def set_limits(axes: Axes, points: Sequence[tuple[float, float]], *, log: bool) -> None:
    """Room around the points; on a logarithmic axis plain numbers, three to seven of them."""
    costs, values = [p[0] for p in points], [p[1] for p in points]
    low, high = min(costs), max(costs)
    if log:
        room = max((high / low) ** 0.06, 1.1)
        axes.set_xscale("log")
        axes.set_xlim(low / room, high * room)
        axes.xaxis.set_major_locator(FixedLocator(log_ticks(low / room, high * room)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        room = max(0.06 * (high - low), 0.05 * high)
        axes.set_xlim(max(0.0, low - room), high + room)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    # Never less than 2 % of the value itself: noise should look like noise. Names go on top.
    span = max(values) - min(values)
    room = max(0.08 * span, (0.02 * max(map(abs, values)) - span) / 2) or 1.0
    axes.set_ylim(min(values) - room, max(values) + 2 * room)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, as many as can be read: powers of ten, finer for short axes.

    Example:
        >>> log_ticks(0.3, 25), log_ticks(3, 5)
        ([0.3, 1.0, 3.0, 10.0], [3.0, 4.0, 5.0])
    """
    powers = [10.0**e for e in range(-9, 13)]
    series: Sequence[Sequence[float]] = (
        (1,),
        (1, 3),
        (1, 2, 5),
        range(1, 10),
        [n / 2 for n in range(2, 20)],
        [n / 10 for n in range(10, 100)],
    )
    found: list[float] = []
    for factors in series:
        ticks = [float(f"{m * p:.6g}") for p in powers for m in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) > 7:
            break
        found = inside
        if len(found) >= 3:
            break
    return found or [float(f"{low:.3g}"), float(f"{high:.3g}")]
