"""Put a label beside each point of a plot so that none covers another."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

RADII = (7, 14, 22, 32, 44, 58, 74)
"""Distances of a label from its point that are tried, in typographic points."""
ANGLES = (90, 270, 0, 180, 60, 120, 240, 300, 30, 150, 210, 330)
"""Directions that are tried, in degrees."""
AMBIGUOUS = 300
"""What it costs that another point lies as near to a label as its own does."""
ACROSS = 200
"""What it costs that the line to a label runs three pixels through another label."""
MARKER = 5
"""Half the side of the square that a marker needs, in typographic points."""


def place_labels(
    axes: Axes,
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    *,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    color: str,
    font_size: float = 8,
) -> None:
    """Write each label in the free place nearest to its point, with a thin line when it is far.

    A label prefers to cover neither labels, points nor `lines`. Labels whose point has the most
    neighbors choose first. Set the limits of the axes before.

    Args:
        points: in data coordinates; those after the last label have none and are kept free.
        lines: drawn curves, each a list of points in data coordinates.
        color: of the thin line.
        font_size: in typographic points.
    """
    figure = axes.figure
    assert isinstance(figure, Figure)
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    figure.draw_without_rendering()  # The layout has to be settled before pixels mean anything.
    renderer = canvas.get_renderer()
    pixels = figure.dpi / 72
    centers = axes.transData.transform(points)  # N 2
    curve = _samples(axes, lines)
    half = np.array([MARKER, MARKER]) * pixels
    markers = np.hstack([centers - half, centers + half])  # N 4: left, bottom, right, top
    taken = np.empty((0, 4))
    for i in sorted(range(len(labels)), key=lambda i: _crowd(centers, i)):
        text = figure.text(0, 0, labels[i], fontsize=font_size, linespacing=1.15, parse_math=False)
        size = text.get_window_extent(renderer)
        text.remove()
        places, radii = _places(centers[i], size.width, size.height, pixels)  # P 4, P
        costs = (
            _costs(places, axes.bbox, taken, markers, curve)
            + AMBIGUOUS * _nearer(places, centers, i, pixels)
            + ACROSS * np.array([_crossed(centers[i], place, taken) for place in places])
            + radii * pixels
        )
        best = int(np.argmin(costs))
        place, far = places[best], radii[best] > RADII[0]
        taken = np.vstack([taken, place])
        middle = (place[:2] + place[2:]) / 2
        if far:
            curve = np.concatenate([curve, _segment(centers[i], middle)])
        axes.annotate(
            labels[i],
            xy=points[i],
            xytext=tuple((middle - centers[i]) / pixels),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=font_size,
            linespacing=1.15,
            parse_math=False,
            zorder=5,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkB": 3}
            if far
            else None,
        )


def _places(
    center: np.ndarray, width: float, height: float, pixels: float
) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (P, 4) around a point whose nearest edge or corner lies at each radius and angle."""
    boxes, radii = [], []
    for radius in RADII:
        for angle in ANGLES:
            x = math.cos(math.radians(angle))
            y = math.sin(math.radians(angle))
            middle_x = center[0] + x * radius * pixels + _side(x) * width / 2
            middle_y = center[1] + y * radius * pixels + _side(y) * height / 2
            left, bottom = middle_x - width / 2, middle_y - height / 2
            boxes.append((left, bottom, left + width, bottom + height))
            radii.append(radius)
    return np.array(boxes), np.array(radii)


def _side(component: float) -> float:
    """−1, 0 or 1: to which side of its anchor a box lies."""
    return 0.0 if abs(component) < 0.1 else math.copysign(1.0, component)


def _costs(
    places: np.ndarray, frame: Bbox, taken: np.ndarray, markers: np.ndarray, curve: np.ndarray
) -> np.ndarray:
    """Pixels² of other labels and of markers covered, of leaving the frame; a little for lines."""
    width, height = places[0, 2:] - places[0, :2]
    outside = width * height - _overlaps(places, np.array([frame.extents]))
    covered = _overlaps(places, markers)
    unreadable = _overlaps(places, taken)
    inside = (curve[None] > places[:, None, :2]) & (curve[None] < places[:, None, 2:])  # P C 2
    crossing = inside.all(axis=2).sum(axis=1)
    return 10.0 * outside + 5.0 * covered + 50.0 * unreadable + 25.0 * crossing


def _nearer(places: np.ndarray, centers: np.ndarray, own: int, pixels: float) -> np.ndarray:
    """How many other points are about as near to each box as its own."""
    beyond = np.maximum(places[:, None, :2] - centers, centers - places[:, None, 2:])  # P N 2
    distances = np.hypot(*np.moveaxis(np.maximum(beyond, 0), 2, 0))  # P N
    near = distances < distances[:, own, None] + MARKER * pixels
    return near.sum(axis=1) - 1


def _crossed(point: np.ndarray, place: np.ndarray, taken: np.ndarray) -> int:
    """How many samples of the line from a point to its label lie in other labels."""
    line = _segment(point, (place[:2] + place[2:]) / 2)
    inside = (line[:, None] > taken[:, :2]) & (line[:, None] < taken[:, 2:])
    return int(inside.all(axis=2).sum())


def _overlaps(places: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pixels² (P,) that each box shares with all others together."""
    low = np.maximum(places[:, None, :2], others[:, :2])  # P N 2
    high = np.minimum(places[:, None, 2:], others[:, 2:])
    return np.maximum(high - low, 0).prod(axis=2).sum(axis=1)


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


def _crowd(centers: np.ndarray, i: int) -> float:
    """Negative number of near neighbors, so that sorting puts crowded points first."""
    distances = np.hypot(*(centers - centers[i]).T)
    return -float((1 / (1 + distances / 50)).sum())
