import matplotlib as mpl
import matplotlib.image
import matplotlib.text
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from mmcompress.report.axes import log_ticks
from mmcompress.report.labels import place_labels
from mmcompress.report.pictures import accuracy_vs_size, latency_marks
from mmcompress.report.plot import (
    INK,
    PALETTE,
    SIZE,
    STYLES,
    Mark,
    best_of,
    front,
    pareto_figure,
    rendered,
    save,
)
from mmcompress.report.summary import summarize
from tests.report.conftest import as_record


def test_front_keeps_what_nothing_beats():
    points = [(1.0, 0.5), (2.0, 0.4), (2.0, 0.7), (3.0, 0.7), (4.0, 0.9)]
    assert front(points) == [0, 2, 4]


@pytest.mark.parametrize("ratios", [[4.0], [1.9, 2.0], [1.0, 4.0, 8.0, 12.0]])
def test_picture_of_any_number_of_runs(ratios, make_record, tmp_path):
    records = [
        as_record(make_record(f"step{i}", ratio=ratio, recall=0.87 + 0.01 * seed, seed=seed))
        for i, ratio in enumerate(ratios)
        for seed in range(2)
    ]
    before = dict(mpl.rcParams)
    accuracy_vs_size(records, tmp_path / "plot.png")
    assert dict(mpl.rcParams) == before
    pixels = mpl.image.imread(tmp_path / "plot.png")
    assert pixels.shape[1] == 990, "3.3 inches at 300 dots"
    assert color_count(pixels, STYLES["other"][0]) > 100 * len(ratios)


def test_error_bars_lie_inside_the_frame():
    marks = [Mark(4.0, 0.9, std=0.09, cost_std=0.5), Mark(2.0, 0.91)]
    figure = pareto_figure(marks, [Mark(8.0, 0.92)], "retrieval/mean_recall", SIZE)
    low, high = figure.axes[0].get_ylim()
    assert low < 81 < 99 < high
    left, right = figure.axes[0].get_xlim()
    assert left < 2.0 < 8.0 < right


def texts_of(figure: Figure) -> list[str]:
    figure.draw_without_rendering()
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def test_words_can_be_read_in_one_column():
    marks = [Mark(10 / 2**i, 0.9 - 0.01 * i, label=f"recipe {i}") for i in range(6)]
    figure = pareto_figure(marks, [Mark(20.0, 0.93)], "retrieval/mean_recall", SIZE)
    assert figure.get_size_inches()[0] == 3.3
    figure.draw_without_rendering()
    texts = [t for t in figure.findobj(mpl.text.Text) if t.get_text() and t.get_visible()]
    assert min(text.get_fontsize() for text in texts) >= 6
    shown = texts_of(figure)
    assert "stored size (MB of 10⁶ bytes, log scale)" in shown
    assert "mean recall (%)" in shown
    assert {f"recipe {i}" for i in range(6)} <= set(shown)
    assert figure.axes[0].get_xscale() == "log"
    box = figure.bbox
    for text in texts:
        extent = text.get_window_extent()
        assert extent.x0 >= box.x0 - 1
        assert extent.x1 <= box.x1 + 1


def test_perplexity_is_better_when_lower():
    marks = [Mark(4.0, 9.0), Mark(2.0, 10.0), Mark(1.0, 30.0), Mark(3.0, 10.5)]
    assert best_of(marks, "captioning/perplexity") == [2, 1, 0]
    assert best_of(marks, "retrieval/mean_recall") == [2]
    figure = pareto_figure(marks, [Mark(8.0, 8.8)], "captioning/perplexity", SIZE)
    shown = texts_of(figure)
    assert "perplexity (lower is better)" in shown
    assert "hollow: 1 lie above" in shown, "30 is far more than 8.8"


def test_equal_figures_are_equal_files(tmp_path):
    for name in ("a.svg", "b.svg"):
        figure = pareto_figure([Mark(2.0, 0.9, label="x")], [Mark(8.0, 0.9)], "acc@1", SIZE)
        save(figure, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<text" not in (tmp_path / "a.svg").read_bytes(), "a font would have to be there"
    assert b"<text" in rendered(figure, "svg", text=True)


def test_latency_is_that_of_the_dense_model_measured_beside_it(make_record):
    slow, fast = make_record("a"), make_record("b")
    slow["latency"] |= {
        "dense_ms": {"1": 9.0, "32": 100.0},
        "compressed_ms": {"1": 1.0, "32": 50.0},
    }
    fast["latency"] |= {"dense_ms": {"1": 9.0, "32": 20.0}, "compressed_ms": {"1": 1.0, "32": 15.0}}
    never = make_record("c")
    never["latency"] |= {"compressed_ms": None, "no_speedup": "decoded"}
    marks, dense, costs = latency_marks(
        summarize([as_record(r) for r in (slow, fast, never)]), "zeroshot/acc@1"
    )
    assert [(m.label, m.cost) for m in marks.values()] == [("a", 0.5), ("b", 0.75)]
    assert [(m.cost, m.value) for m in dense] == [(1.0, 0.6)]
    assert costs.label == "latency, batch 32 (dense = 1 ≈ 60 ms in PyTorch)"


def test_each_runtime_has_a_mark(make_record):
    """A method that cannot be faster in PyTorch may be so in ONNX Runtime."""
    both, never = make_record("a"), make_record("b")
    both["deployed"] = {"dense_ms": {"32": 10.0}, "compressed_ms": {"32": 4.0}}
    never["deployed"] = {"dense_ms": {"32": 10.0}, "compressed_ms": {"32": 20.0}}
    never["latency"] |= {"compressed_ms": None, "no_speedup": "decoded"}
    summaries = summarize([as_record(both), as_record(never)])
    marks, dense, costs = latency_marks(summaries, "zeroshot/acc@1")
    assert {place: (mark.label, mark.cost) for place, mark in marks.items()} == {
        (0, ""): ("a", 0.5),
        (0, "ONNX Runtime"): ("a, ONNX Runtime", 0.4),
        (1, "ONNX Runtime"): ("b, ONNX Runtime", 2.0),
    }
    figure = pareto_figure(list(marks.values()), dense, "zeroshot/acc@1", costs)
    (legend,) = figure.legends
    assert "outlined: ONNX Runtime" in [text.get_text() for text in legend.get_texts()]
    rims = [
        collection.get_edgecolor()[0].tolist()
        for collection in figure.axes[0].collections
        if (collection.get_gid() or "").startswith("marks:")
    ]
    assert to_rgba(INK) in map(tuple, rims)
    assert to_rgba("white") in map(tuple, rims)


@pytest.mark.parametrize("ratio", [1.05, 2, 30, 1000, 1e7])
def test_any_range_of_sizes_has_ticks(ratio):
    ticks = log_ticks(0.37, 0.37 * ratio)
    assert 2 <= len(ticks) <= 7
    assert all(0.37 <= tick <= 0.37 * ratio for tick in ticks)


def test_other_metrics_and_missing_ones(make_record, tmp_path):
    accuracy_vs_size([as_record(make_record("int4"))], tmp_path / "a.png", metric="zeroshot/acc@1")
    losses = make_record("int4") | {
        "metrics": {"dense": {"loss": 0.1}, "compressed": {"loss": 3.0}}
    }
    accuracy_vs_size([as_record(losses)], tmp_path / "a.png")
    with pytest.raises(ValueError, match="no run holds the metric 'r@1'"):
        accuracy_vs_size([as_record(make_record("int4"))], tmp_path / "b.png", metric="r@1")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_labels_of_twelve_points_do_not_overlap():
    figure = Figure(figsize=(7.2, 4.5), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    generator = np.random.default_rng(0)
    points = [tuple(p) for p in generator.uniform(0.1, 0.9, size=(12, 2))]
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    place_labels(axes, points, [f"recipe {i}\n{i}.0×" for i in range(12)], color="gray")
    renderer = canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert len(boxes) == 12
    for i, box in enumerate(boxes):
        assert axes.bbox.contains(box.x0, box.y0)
        assert axes.bbox.contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points)


def color_count(pixels: np.ndarray, color: str) -> int:
    wanted = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(pixels[..., :3] - wanted).max(axis=-1) < 0.01).sum())


def test_every_family_is_drawn_and_hidden_points_are_counted(tmp_path):
    marks = [
        *(Mark(*point, family="quantization") for point in [(5, 0.93), (2, 0.92), (1, 0.2)]),
        *(Mark(*point, family="low rank") for point in [(9, 0.92), (4, 0.91)]),
        Mark(6, 0.91, label="int8", family="library", peer=True),
    ]
    figure = pareto_figure(marks, [Mark(20, 0.94)], "retrieval/mean_recall", SIZE)
    save(figure, tmp_path / "p.png")
    pixels = mpl.image.imread(tmp_path / "p.png")
    assert color_count(pixels, STYLES["quantization"][0]) > 100
    assert color_count(pixels, STYLES["low rank"][0]) > 100
    assert color_count(pixels, STYLES["sharing"][0]) == 0
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["low rank", "quantization", "library", "uncompressed", "hollow: 1 lie below"]


def test_colors_are_okabe_and_itos():
    dense = ("none", "float16")
    colors = [color for family, (color, _) in STYLES.items() if family not in dense]
    assert sorted(colors) == sorted(PALETTE)
    assert len({marker for _, marker in STYLES.values()}) == len(STYLES), "and shapes differ too"
