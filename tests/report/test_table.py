import pytest

from mmcompress.report.summary import Spread, comparable, summarize
from mmcompress.report.table import all_values, results_table
from tests.report.conftest import as_record


def test_table_by_hand(make_record):
    records = [
        make_record("magnitude", "int4", ratio=8.0, recall=0.86, accuracy=None),
        *(make_record("int8", ratio=4.0, recall=0.87 + 0.01 * s, seed=s) for s in range(3)),
    ]
    records = [as_record(content) for content in records]
    assert results_table(records).splitlines() == [
        "| recipe | mean recall, dense (%) | compressed (%) | Δ (points) | zero-shot (%) "
        "| stored (MB) | ratio to dense float32 | bits/weight |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| int8 | 88.0 | 88.0 ± 1.0 (3 seeds) | 0.0 ± 1.0 (3 seeds) | 50.0 ± 0.0 (3 seeds) "
        "| 5.00 ± 0.00 (3 seeds) | 4.00 ± 0.00 (3 seeds) | 8.00 ± 0.00 (3 seeds) |",
        "| magnitude + int4 | 88.0 | 86.0 | −2.0 | – | 2.50 | 8.00 | 4.00 |",
    ]


def test_more_metrics_get_columns(make_record):
    record = make_record("int8")
    record["metrics"]["compressed"]["agreement/text_cosine"] = 0.98765
    record = as_record(record)
    header, _, row = results_table([record], more=["agreement/text_cosine", "absent"]).splitlines()
    assert header.endswith("| text cosine | absent |")
    assert row.endswith("| 0.9877 | – |")


def test_a_repeated_seed_is_not_a_second_one(make_record):
    records = [as_record(make_record("int8", recall=recall)) for recall in (0.5, 0.7)]
    (summary,) = summarize(records)
    assert summary.runs == 1
    assert summary.compressed["retrieval/mean_recall"] == Spread(0.7, None, 1)


def test_settings_of_one_recipe_get_rows_of_their_own(make_record):
    records = [as_record(make_record("lowrank", rank_ratio=r, ratio=1 / r)) for r in (0.25, 0.5)]
    assert [s.name for s in summarize(records)] == [
        "lowrank (rank_ratio=0.5)",
        "lowrank (rank_ratio=0.25)",
    ]


@pytest.mark.parametrize(
    ("spread", "sign", "text"),
    [
        (Spread(-0.0004, None, 1), True, "0.0"),
        (Spread(0.012, None, 1), True, "+1.2"),
        (Spread(-0.012, 0.003, 2), True, "−1.2 ± 0.3"),
        (Spread(0.012, None, 1), False, "1.2"),
    ],
)
def test_format(spread, sign, text):
    assert spread.format(1, scale=100, sign=sign) == text


def with_interval(record, value: float, low: float, high: float, delta: list[float]):
    name = "retrieval/mean_r@1"
    metrics = {which: dict(values) for which, values in record["metrics"].items()}
    metrics["dense"][name], metrics["compressed"][name] = 0.9, value
    entry = {"items": 483, "dense": [0.88, 0.92], "compressed": [low, high], "delta": delta}
    return as_record(record | {"metrics": metrics, "intervals": {name: entry}})


def test_the_headline_has_its_interval_and_number_of_items(make_record):
    records = [
        with_interval(make_record("int4", ratio=8.0), 0.85, 0.82, 0.88, [-0.061, -0.039]),
        *(
            with_interval(make_record("int8", seed=s), 0.88 + d, 0.86 + d, 0.9 + d, [-0.03 + d, d])
            for s, d in enumerate((0.0, 0.01))
        ),
    ]
    lines = [line.split(" | ") for line in results_table(records).splitlines()]
    assert lines[0][:7] == [
        "| recipe",
        "mean R@1, dense (%)",
        "compressed (%)",
        "Δ (points)",
        "test items",
        "mean recall (%)",
        "zero-shot (%)",
    ]
    assert lines[2][1:5] == [
        "90.0",
        "88.5 ± 0.7 [86.5, 90.5] (2 seeds)",
        "−1.5 ± 0.7 [−2.5, +0.5] (2 seeds)",
        "483",
    ]
    assert lines[3][1:5] == ["90.0", "85.0 [82.0, 88.0]", "−5.0 [−6.1, −3.9]", "483"]


def test_records_without_intervals_stand_beside_those_with(make_record):
    new = with_interval(make_record("int4", ratio=8.0), 0.85, 0.82, 0.88, [-0.061, -0.039])
    lines = [
        line.split(" | ")
        for line in results_table([new, as_record(make_record("int8"))]).splitlines()
    ]
    assert lines[2][1:6] == ["–", "–", "–", "–", "87.0"]
    assert lines[3][2] == "85.0 [82.0, 88.0]"


def test_comma_separated_values_hold_the_bounds(make_record):
    new = with_interval(make_record("int4"), 0.85, 0.82, 0.88, [-0.061, -0.039])
    (row,) = all_values("", summarize([new]))
    name = "retrieval/mean_r@1"
    assert [row[f"{name} {key}"] for key in ("items", "low", "high")] == [483, 0.82, 0.88]
    assert [row[f"delta/{name} {end}"] for end in ("low", "high")] == [-0.061, -0.039]
    assert [row[f"dense/{name} {end}"] for end in ("low", "high")] == [0.88, 0.92]


def test_comparable_runs_share_backbone_data_and_split(make_record):
    this = as_record(make_record("int4"))
    other_seed = as_record(make_record("int8", seed=1))
    failed = as_record(make_record("int8") | {"status": "failed"})
    on_val = as_record(make_record("int8"))
    on_val.config["evaluation"] = {"split": "val"}
    retrained = as_record(make_record("int8"))
    retrained.metrics.dense = {"retrieval/mean_recall": 0.9}
    records = [this, other_seed, failed, on_val, retrained]
    assert comparable(records, this) == [this, other_seed]


def test_runs_of_a_retrained_backbone_are_no_seeds(make_record):
    before, after = (as_record(make_record("int8", seed=seed)) for seed in (0, 1))
    after.metrics.dense = {"retrieval/mean_recall": 0.9}
    assert [summary.runs for summary in summarize([before, after])] == [1, 1]


def test_no_run_is_an_error():
    with pytest.raises(ValueError, match="no finished run"):
        results_table([])
