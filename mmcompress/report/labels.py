"""Put a label beside each point of a plot so that none covers another."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.transforms import Bbox

FONT_SIZE = 8
RADII = (7, 14, 22, 32, 44, 58, 74)
"""Distances of a label from its point that are tried, in typographic points."""
ANGLES = (90, 270, 0, 180, 60, 120, 240, 300, 30, 150, 210, 330)
"""Directions that are tried, in degrees."""
AMBIGUOUS = 300
"""What it costs that another point lies as near to a label as its own does."""
MARKER = 5
"""Half the side of the square that a marker needs, in typographic points."""


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    *,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    color: str,
) -> None:
    """Write each label in the free place nearest to its point, with a thin line when it is far.

    A label prefers to cover neither labels, points nor `lines`. Labels whose point has the most
    neighbours choose first. Set the limits of the axes before.

    Args:
        points: in data coordinates.
        lines: drawn curves, each a list of points in data coordinates.
        color: of the thin line.
    """
    figure = axes.figure
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # The layout has to be settled before pixels mean anything.
    renderer = canvas.get_renderer()
    pixels = figure.dpi / 72
    centres = axes.transData.transform(points)  # N 2
    curve = _samples(axes, lines)
    markers = [Bbox.from_extents(*(c - MARKER * pixels), *(c + MARKER * pixels)) for c in centres]
    taken: list[Bbox] = []
    for i in sorted(range(len(points)), key=lambda i: _crowd(centres, i)):
        text = figure.text(0, 0, labels[i], fontsize=FONT_SIZE, linespacing=1.15)
        size = text.get_window_extent(renderer)
        text.remove()
        places = list(_places(centres[i], size.width, size.height, pixels))
        costs = [
            _cost(box, axes.bbox, taken, markers, curve)
            + AMBIGUOUS * _nearer(box, centres, i, pixels)
            + radius * pixels
            for box, radius in places
        ]
        box, radius = places[int(np.argmin(costs))]
        taken.append(box)
        middle = np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2
        if radius > RADII[0]:
            curve = np.concatenate([curve, _segment(centres[i], middle)])
        axes.annotate(
            labels[i],
            xy=points[i],
            xytext=tuple((middle - centres[i]) / pixels),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=FONT_SIZE,
            linespacing=1.15,
            zorder=5,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkB": 3}
            if radius > RADII[0]
            else None,
        )


def _places(
    centre: np.ndarray, width: float, height: float, pixels: float
) -> Iterator[tuple[Bbox, int]]:
    """Boxes around a point whose nearest edge or corner lies at each radius and angle."""
    for radius in RADII:
        for angle in ANGLES:
            x = math.cos(math.radians(angle))
            y = math.sin(math.radians(angle))
            middle_x = centre[0] + x * radius * pixels + _side(x) * width / 2
            middle_y = centre[1] + y * radius * pixels + _side(y) * height / 2
            yield (
                Bbox.from_bounds(middle_x - width / 2, middle_y - height / 2, width, height),
                radius,
            )


def _side(component: float) -> float:
    """−1, 0 or 1: to which side of its anchor a box lies."""
    return 0.0 if abs(component) < 0.1 else math.copysign(1.0, component)


def _cost(
    box: Bbox, frame: Bbox, taken: Sequence[Bbox], markers: Sequence[Bbox], curve: np.ndarray
) -> float:
    """Pixels² of labels and markers covered, much for leaving the frame, a little for lines."""
    outside = box.width * box.height - _overlap(box, frame)
    covered = sum(_overlap(box, other) for other in (*taken, *markers))
    crossing = np.all((curve > box.min) & (curve < box.max), axis=1).sum()
    return 10.0 * outside + 5.0 * covered + 8.0 * float(crossing)


def _nearer(box: Bbox, centres: np.ndarray, own: int, pixels: float) -> int:
    """How many other points are about as near to the box as its own."""
    beyond = np.maximum(np.maximum(box.min - centres, centres - box.max), 0)  # N 2
    distances = np.hypot(*beyond.T)
    return int((distances < distances[own] + MARKER * pixels).sum()) - 1


def _overlap(a: Bbox, b: Bbox) -> float:
    shared = Bbox.intersection(a, b)
    return 0.0 if shared is None else shared.width * shared.height


def _samples(axes: Axes, lines: Sequence[Sequence[tuple[float, float]]]) -> np.ndarray:
    """Points (N, 2) on the lines, in pixels, close to one another."""
    parts = [np.empty((0, 2))]
    for line in lines:
        corners = axes.transData.transform(line)
        parts.extend(_segment(a, b) for a, b in itertools.pairwise(corners))
    return np.concatenate(parts)


def _segment(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Points (N, 2) from a to b, about three pixels apart."""
    count = 2 + int(np.hypot(*(b - a)) / 3)
    return a + (b - a) * np.linspace(0, 1, count)[:, None]


def _crowd(centres: np.ndarray, i: int) -> float:
    """Negative number of near neighbours, so that sorting puts crowded points first."""
    distances = np.hypot(*(centres - centres[i]).T)
    return -float((1 / (1 + distances / 50)).sum())
