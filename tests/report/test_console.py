import dataclasses
import io

import pytest
from rich.console import Console

from mmcompress.report.console import print_ledger, print_report, report_console
from tests.report.conftest import as_record


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=100, highlight=False)


def rows(console):
    """Cells of every printed row that is not a header."""
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line[1:-1].split("│")] for line in lines]


def cells(console):
    """First cell → the other cells."""
    return {first: rest for first, *rest in rows(console)}


def test_report_by_hand(make_record, console, tmp_path):
    record = as_record(make_record("magnitude", "int4", ratio=8.0, recall=0.86))
    print_report(record, tmp_path, console=console)
    assert cells(console) == {
        "retrieval/mean_recall": ["", "88.00 %", "86.00 %", "−2.00 points"],
        "zeroshot/acc@1": ["", "60.00 %", "50.00 %", "−10.00 points"],
        "bytes (dense: float32)": ["", "20.00 MB (20,000,000)", "2.50 MB (2,500,000)", "−87.5%"],
        "compression_ratio": ["", "1.00×", "8.00×", ""],
        "bits_per_weight": ["", "32.00", "4.00", ""],
        "latency, batch 1": ["", "9.0 ms", "6.0 ms", "1.50× as fast"],
        "latency, batch 32": ["", "66.0 ms", "33.0 ms", "2.00× as fast"],
        "throughput, batch 32": ["", "484.8 pairs/s", "969.7 pairs/s", "2.00× as fast"],
    }
    lines = console.file.getvalue().splitlines()
    assert lines[-4:] == [
        "latency: torch eager float32 on cpu, 2 threads, median",
        "magnitude targeted 98.0% of the parameters",
        "int4 targeted 98.0% of the parameters",
        f"artifact: {tmp_path}",
    ]


def test_intervals_and_items_stand_beside_the_scores(make_record, console, tmp_path):
    console.width = 140
    record = make_record("int4") | {
        "metrics": {
            "dense": {"retrieval/mean_r@1": 0.88, "retrieval/mean_recall": 0.9},
            "compressed": {"retrieval/mean_r@1": 0.86, "retrieval/mean_recall": 0.89},
        },
        "intervals": {
            "retrieval/mean_r@1": {
                "items": 483,
                "items_apart": 500,
                "ceiling_apart": 0.9536,
                "dense": [0.85, 0.9123],
                "compressed": [0.83, 0.8899],
                "delta": [-0.0301, 0.0],
            }
        },
    }
    print_report(as_record(record), tmp_path, console=console)
    found = cells(console)
    assert next(iter(found)) == "retrieval/mean_r@1"
    assert found["retrieval/mean_r@1"] == [
        "483",
        "88.00 % [85.0, 91.2]",
        "86.00 % [83.0, 89.0]",
        "−2.00 points [−3.0, 0.0]",
    ]
    assert found["retrieval/mean_recall"] == ["", "90.00 %", "89.00 %", "−1.00 points"]
    printed = console.file.getvalue()
    assert "95 % bootstrap interval over the test items" in printed
    assert (
        "retrieval/mean_r@1: 483 of 500 items are distinct, and equal ones count as one; counted "
        "apart, no model could exceed 95.36 %"
    ) in printed


def test_what_a_cast_reaches_stands_below_the_table(make_record, make_cast, console, tmp_path):
    print_report(
        as_record(make_record("gptq") | {"float16": make_cast()}), tmp_path, console=console
    )
    assert (
        "dense cast to float16: 10.00 MB (10,000,000), 2.00×; entropy coded: 8.00 MB (8,000,000), "
        "2.50×; retrieval/mean_recall 87.90 %"
    ) in console.file.getvalue()


def test_a_reason_takes_the_place_of_compressed_latency(make_record, console, tmp_path):
    record = make_record("int4")
    record["latency"] |= {
        "compressed_ms": None,
        "compressed_pairs_per_s": None,
        "no_speedup": "decoded to float32",
    }
    print_report(as_record(record), tmp_path, console=console)
    assert cells(console)["latency, batch 1"] == ["", "9.0 ms", "–", "–"]
    assert "no speed-up expected: decoded to float32" in console.file.getvalue()


@pytest.mark.parametrize(
    ("limit", "line"),
    [
        (2_500_000, "budget: 2,500,000 of 2,500,000 bytes used"),
        (2_000_000, "budget.ratio by 25% or train less"),
    ],
)
def test_a_budget_is_compared_with_what_was_stored(
    make_record, console, tmp_path, limit: int, line: str
):
    record = make_record("entropy", ratio=8.0) | {
        "budget": {"limit": limit, "choices": [], "groups": []}
    }
    print_report(as_record(record), tmp_path, console=console)
    assert line in console.file.getvalue()


def test_the_artifact_line_is_never_broken(make_record, console, tmp_path):
    path = tmp_path / ("long" * 40)
    print_report(as_record(make_record("int4")), path, console=console)
    assert f"artifact: {path}" in console.file.getvalue().splitlines()


def test_pipes_get_enough_columns(monkeypatch, capsys, make_record, tmp_path):
    monkeypatch.setenv("COLUMNS", "40")
    assert report_console().width == 120
    print_report(as_record(make_record("int4")), tmp_path)
    assert "20.00 MB (20,000,000)" in capsys.readouterr().out


def test_ledger_by_hand(ledger, console):
    print_ledger(ledger, console=console)
    assert rows(console) == [
        ["image", "attn.q", "codes", "10,000", "63.7%"],
        ["image", "other", "dense", "700", "4.5%"],
        ["shared", "other", "dense", "4", "0.0%"],
        ["shared", "other", "manifest", "5,000", "31.8%"],
        ["total", "", "bytes of both files", "15,704", "100.0%"],
        ["vision_tower", "dense", "2", "200", "700", "28.00"],
        ["vision_tower", "int4: 4 bits, groups of 64", "2", "20,000", "10,000", "4.00"],
        ["shared", "dense", "1", "1", "4", "32.00"],
        ["image", "attn.q", "int4: 4 bits, groups of 64", "2", "20,000", "10,000", "4.00"],
        ["image", "other", "dense", "2", "200", "700", "28.00"],
        ["shared", "other", "dense", "1", "1", "4", "32.00"],
        ["total", "", "with header and manifest", "5", "20,201", "15,704", "6.22"],
        ["vision.layers.*.q.bias", "2", "700", "no weight"],
        ["logit_scale", "1", "4", "no weight"],
    ]


def test_ledger_fits_a_hundred_columns(ledger, console):
    long = dataclasses.replace(ledger[0], how="magnitude, reconstruction, int4: 4 bits, masked" * 2)
    print_ledger([*ledger, long], console=console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    assert not any("…" in line for line in lines)


def test_what_is_deployed_has_a_table(make_record, console, tmp_path):
    deployed = {
        "runtime": "ONNX Runtime 1.32.0",
        "threads": 1,
        "dense_ms": {"1": 6.0, "32": 100.0},
        "compressed_ms": {"1": 3.0, "32": 125.0},
        "dense_bytes": 20_000_000,
        "compressed_bytes": 5_000_000,
        "dense_memory_bytes": 40_000_000,
        "compressed_memory_bytes": None,
    }
    record = as_record(make_record("int4") | {"deployed": deployed})
    print_report(record, tmp_path, console=console)
    assert [row for row in rows(console) if len(row) == 4] == [
        ["latency, batch 1, median", "6.0 ms", "3.0 ms", "2.00× as fast"],
        ["latency, batch 32, median", "100.0 ms", "125.0 ms", "0.80× as fast"],
        ["files", "20.00 MB (20,000,000)", "5.00 MB (5,000,000)", "−75.0%"],
    ]
    title = "deployed: ONNX Runtime 1.32.0, 1 thread, dense and compressed in turn"
    assert title in console.file.getvalue()


def test_why_nothing_is_deployed(make_record, console, tmp_path):
    reason = 'onnxruntime is not installed: pip install "mmcompress[onnx]"'
    record = as_record(make_record("int4") | {"deployed": {"not_measured": reason}})
    print_report(record, tmp_path, console=console)
    assert f"not measured in ONNX Runtime: {reason}" in console.file.getvalue().splitlines()
