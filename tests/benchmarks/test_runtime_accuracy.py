"""The table of accuracy by runtime, by hand."""

from mmcompress.benchmarks.runtime_accuracy import COLUMNS, DECODED, misses, to_markdown


def test_bars_by_hand() -> None:
    """0.1 points for weights; 0.5 where inputs are rounded, below the worse of dense and decode."""

    def missed(recipe: str, *, dense: float = 0.84, **scores: float) -> list[str]:
        named = {name.replace("_", " ").replace("onnx ", "onnx, "): s for name, s in scores.items()}
        return [
            line.partition(" scores")[0]
            for line in misses(dense, {recipe: dict.fromkeys(COLUMNS, 0.84) | named})
        ]

    assert missed("int8", packed=0.8405, onnx_inputs_int8=0.8355) == []
    assert missed("int8", onnx=0.8415) == ["int8: onnx"]
    assert missed("w8a8", onnx=0.8415) == []
    assert missed("int4", onnx_inputs_int8=0.834) == ["int4: onnx, inputs int8"]
    assert missed("int4", onnx_inputs_int8=0.834, dense=0.838) == []
    assert missed("int4", onnx_inputs_int8=0.87) == []


def test_the_table_by_hand() -> None:
    scores = dict.fromkeys(COLUMNS, 0.84) | {"packed": 0.8395}
    page = to_markdown(0.851, {"int8": scores})
    assert "the dense model scores 85.10." in page
    heads = page.splitlines()[-3].split(" | ")
    cells = page.splitlines()[-1].split(" | ")
    assert cells[0] == "| `int8`"
    assert cells[heads.index(DECODED)] == "84.00"
    assert cells[heads.index("packed")] == "83.95 (-0.05)"
    assert cells[heads.index("onnx")] == "84.00 (+0.00)"
