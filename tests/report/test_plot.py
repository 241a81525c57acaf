import matplotlib as mpl
import matplotlib.image
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmcompress.report.labels import place_labels
from mmcompress.report.plot import PALETTE, Mark, accuracy_vs_size, families_plot, front


def test_front_keeps_what_nothing_beats():
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9)]
    assert front(points) == [0, 2, 4]


@pytest.mark.parametrize("ratios", [[4.0], [1.9, 2.0], [1.0, 4.0, 8.0, 12.0]])
def test_picture_of_any_number_of_runs(ratios, make_record, tmp_path):
    records = [
        make_record(f"step{i}", ratio=ratio, recall=0.87 + 0.01 * seed, seed=seed)
        for i, ratio in enumerate(ratios)
        for seed in range(2)
    ]
    before = dict(mpl.rcParams)
    accuracy_vs_size(records, tmp_path / "plot.png")
    assert dict(mpl.rcParams) == before
    pixels = mpl.image.imread(tmp_path / "plot.png")
    assert pixels.shape[:2] == (900, 1440)
    blue = np.array([0x00, 0x72, 0xB2]) / 255
    assert (np.abs(pixels[..., :3] - blue).max(axis=-1) < 0.01).sum() > 100 * len(ratios)


def test_other_metrics_and_missing_ones(make_record, tmp_path):
    accuracy_vs_size([make_record("int4")], tmp_path / "a.png", metric="zeroshot/acc@1")
    losses = make_record("int4") | {"metrics": {"dense": {"loss": 0.1}, "compressed": {"loss": 3}}}
    accuracy_vs_size([losses], tmp_path / "a.png")
    with pytest.raises(ValueError, match="no run holds the metric 'r@1'"):
        accuracy_vs_size([make_record("int4")], tmp_path / "b.png", metric="r@1")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_labels_of_twelve_points_do_not_overlap():
    figure = Figure(figsize=(7.2, 4.5), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    generator = np.random.default_rng(0)
    points = [tuple(p) for p in generator.uniform(0.1, 0.9, size=(12, 2))]
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    place_labels(axes, points, [f"recipe {i}\n{i}.0×" for i in range(12)], color="grey")
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == 12
    for i, box in enumerate(boxes):
        assert axes.bbox.contains(box.x0, box.y0)
        assert axes.bbox.contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)


def colour_count(pixels: np.ndarray, colour: str) -> int:
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.01).sum())


def test_every_family_is_drawn_and_hidden_points_are_counted(tmp_path, monkeypatch):
    legends = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.legend",
        lambda axes, **_: legends.append([line.get_label() for line in axes.lines]),
    )
    families = {
        "quantisation": [Mark(5e6, 0.93, 0.01), Mark(2e6, 0.92), Mark(1e6, 0.2)],
        "low rank": [Mark(9e6, 0.9), Mark(4e6, 0.8)],
    }
    peers = {"other": [Mark(6e6, 0.91, label="int8")]}
    families_plot(families, peers, Mark(2e7, 0.94, label="dense"), tmp_path / "p.png", lowest=0.5)
    pixels = mpl.image.imread(tmp_path / "p.png")
    assert colour_count(pixels, PALETTE[0]) > 100
    assert colour_count(pixels, PALETTE[1]) > 100
    assert colour_count(pixels, PALETTE[2]) == 0
    (labels,) = legends
    assert {"quantisation (1 below 50.0 %)", "low rank", "other", "dense"} <= set(labels)
