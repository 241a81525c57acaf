"""What becomes of every recipe and family in every export, and the page that says so."""

import json
from pathlib import Path

import pytest

from mmcompress.testing.exporting import COLUMNS, Line, Outcome, export_all
from mmcompress.testing.exports_page import document

WRITTEN = Outcome("written", largest=2e-7)


def outcomes(**others: Outcome) -> dict[str, Outcome]:
    return {name: others.get(name, WRITTEN) for name in COLUMNS}


def test_a_page_by_hand() -> None:
    refused = Outcome("refused", "it holds no integers")
    lines = [
        Line("int8", "hf/clip", outcomes=outcomes(open_clip=refused)),
        Line("vq", "hf/clip", outcomes=outcomes(onnx=Outcome("written", floats=0.123))),
        Line("hqq", "hf/clip", outcomes=outcomes(onnx=Outcome("written", rounded=0.004))),
        Line("heads", "hf/clip", refused="it has no heads"),
    ]
    broken = Outcome("broken", "KeyError: *")
    rounds = {name: Outcome("written", cosine=0.9995, largest=0.01) for name in COLUMNS}
    families = [
        Line("w8a8", "mlp", rounds_inputs=True, outcomes=rounds | {"hf": broken, "onnx": refused})
    ]
    page = document({"hf/clip": lines}, families, versions={"torch": "2"}, command="make")
    assert "**24 exports: 21 written, 20 of them exact, 2 refused, 1 broken.**" in page
    assert "The largest difference is 2.0e-07, the least mean cosine where inputs are " in page
    assert "rounded 0.99950." in page
    assert "| `int8` | exact | exact | exact | exact | 1 | exact |" in page
    assert "| `vq` | exact, 12 % floats | exact |" in page
    assert "| `hqq` | under 1 % float16 | exact |" in page
    assert "| `heads` | – | – | – | – | – | – |" in page
    assert "| mlp | `w8a8` | 1 | exact | exact | exact | exact | **2** |" in page
    assert "1. it holds no integers\n2. **broken**: KeyError: \\*\n" in page


def test_a_line_reads_back(tmp_path: Path) -> None:
    line = Line("int8", "hf/clip", outcomes=outcomes(hf=Outcome("refused", "why")))
    assert Line.of_json(json.loads(json.dumps(line.to_json()))) == line


@pytest.mark.slow
def test_a_recipe_that_does_not_apply_has_no_outcomes() -> None:
    line = export_all("heads", "mlp")
    assert "matched 0 of 1 targets" in line.refused
    assert line.outcomes == {}
