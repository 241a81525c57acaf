"""The table of packed models has what was measured."""

from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.benchmarks.packed import DENSE, PACKED, ROWS, measure, to_markdown


def test_a_row_is_measured_for_each_tower_and_batch(tiny_open_clip: OpenClip) -> None:
    cells = list(measure(ROWS[:1], tiny_open_clip, "cpu", seconds=0.0, compiled=False))
    found = [(cell["tower"], cell["batch"]) for cell in cells]
    assert found == [("image", 1), ("image", 16), ("text", 1), ("text", 16)]
    for cell in cells:
        assert cell["bytes"]["packed"] < 0.6 * cell["bytes"]["dense"]
        assert min(cell["ms"][DENSE], cell["ms"][PACKED]) > 0
        assert "integers multiply" in cell["kinds"]
    table = to_markdown(cells, "tiny", "CPU, 1 thread")
    speed = cells[0]["ms"][DENSE] / cells[0]["ms"][PACKED]
    assert (
        f"| int8, inputs int8 | image | 1 | {cells[0]['ms'][DENSE]:.1f} | {speed:.2f}× |" in table
    )
