"""The table of accuracy by runtime, by hand."""

from mmcompress.benchmarks.runtime_accuracy import COLUMNS, DECODED, misses, to_markdown


def test_bars_by_hand() -> None:
    """0.1 points for weights, 0.5 where inputs are rounded as well."""
    same = dict.fromkeys(COLUMNS, 0.84)
    far = {"onnx": 0.8415, "onnx, inputs int8": 0.836}
    assert misses({"int8": same | {"onnx, inputs int8": 0.836, "packed": 0.8405}}) == []
    assert misses({"int8": same | far}) == [
        "int8: onnx scores 84.15 and its dense decode 84.00",
    ]
    assert misses({"int4": same | {"onnx, inputs int8": 0.83}}) == [
        "int4: onnx, inputs int8 scores 83.00 and its dense decode 84.00",
    ]


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
