"""The table of packed models has what was measured."""

from collections.abc import Callable, Mapping

import pytest

from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.benchmarks import packed
from mmcompress.benchmarks.packed import DENSE, PACKED, ROWS, measure, to_markdown
from mmcompress.runtime.packed.layers import Int8Linear


def test_a_row_is_measured_for_each_tower_and_batch(
    tiny_open_clip: OpenClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that counts what each workload multiplies: rows of packed layers, by workload."""
    multiplied: list[int] = []
    forward = Int8Linear.forward

    def counted(self: Int8Linear, x):
        multiplied.append(x.shape[0])
        return forward(self, x)

    def alternate(
        workloads: Mapping[str, Callable[[], object]], *, seconds: float
    ) -> dict[str, float]:
        assert list(workloads) == [DENSE, PACKED]
        assert seconds == 3.0
        layers = {}
        for name, run in workloads.items():
            multiplied.clear()
            run()
            layers[name] = len(multiplied)
        assert layers[DENSE] == 0
        assert layers[PACKED] > 8, "both blocks of a tower have more than four layers"
        return {DENSE: 0.030, PACKED: 0.012}

    monkeypatch.setattr(Int8Linear, "forward", counted)
    monkeypatch.setattr(packed, "alternate", alternate)
    cells = list(measure(ROWS[:1], tiny_open_clip, "cpu", seconds=3.0, compiled=False))
    found = [(cell["tower"], cell["batch"]) for cell in cells]
    assert found == [("image", 1), ("image", 16), ("text", 1), ("text", 16)]
    for cell in cells:
        assert cell["bytes"]["packed"] < 0.6 * cell["bytes"]["dense"]
        assert cell["ms"] == {DENSE: pytest.approx(30.0), PACKED: pytest.approx(12.0)}
        assert "integers multiply" in cell["kinds"]
    table = to_markdown(cells, "tiny", "CPU, 1 thread")
    assert "| int8, inputs int8 | image | 1 | 30.0 | 2.50× |" in table
