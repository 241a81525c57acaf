"""The dense model in float16 stands beside every recipe."""

from pathlib import Path

from mmcompress.records.numerics import NUMERICS
from mmcompress.records.record import stale_line
from mmcompress.report.page import page
from mmcompress.report.pictures import size_marks
from mmcompress.report.sections import sections
from mmcompress.report.summary import summarize
from mmcompress.report.table import recipes_table
from tests.report.conftest import as_record


def test_two_rows_and_two_points_whatever_the_number_of_runs(make_record, make_cast):
    records = [
        as_record(make_record("gptq", ratio=8.0, seed=seed) | {"float16": make_cast()})
        for seed in (0, 1)
    ]
    summaries = summarize(records)
    names = [summary.name for summary in summaries]
    assert names == ["dense, float16", "dense, float16, coded", "gptq"]
    table = recipes_table(summaries, "retrieval/mean_recall")
    stored = table.header.index("stored (MB)") - 1  # the first heading is that of the names
    assert [row[stored].text for row in table.rows[:2]] == ["10.00", "8.00"]
    assert [row[stored + 1].text for row in table.rows[:2]] == ["2.00", "2.50"]
    change = table.header.index("Δ (points)") - 1
    assert table.rows[0][change].text == "−0.1"
    marks, dense = size_marks(summaries, "retrieval/mean_recall")
    assert [mark.cost for mark in marks.values()] == [10.0, 8.0, 2.5]
    assert [mark.family for mark in marks.values()][:2] == ["float16", "float16"]
    assert len(dense) == 1


def test_the_page_counts_no_cast_among_the_recipes_without_latency(make_record, make_cast):
    slow = as_record(make_record("gptq") | {"float16": make_cast(), "latency": {}}, "a")
    fast = as_record(make_record("lowrank", ratio=2.0), "b")
    (section,) = sections([slow, fast])
    html = page([section], [], [], root=Path("runs"))
    assert "Not here: 1 of 2 recipes" in html


def test_runs_of_two_dense_models_have_rows_of_their_own(make_record, make_cast):
    one = as_record(make_record("gptq") | {"float16": make_cast()})
    other = as_record(make_record("gptq", bits=2) | {"float16": make_cast()})
    other.metrics.dense = {"retrieval/mean_recall": 0.5, "zeroshot/acc@1": 0.2}
    assert [s.family for s in summarize([one, other])].count("float16") == 4


def test_records_of_other_numerics_are_no_seeds_and_are_told(make_record):
    new, first_version = as_record(make_record("gptq", seed=0)), make_record("gptq", seed=1)
    del first_version["numerics"]
    old = as_record(first_version)
    assert [summary.runs for summary in summarize([new, old])] == [1, 1]
    line = stale_line([new, old])
    assert line.startswith("1 of 2 runs has numbers that mean something else (numerics 1)")
    assert f"numerics {NUMERICS}" in line
    assert stale_line([new]) == ""
