"""What storing and reading cost, measured on the packaged model."""

import pytest

from mmcompress.benchmarks.storing import measure, to_markdown


def test_rates_follow_from_seconds_and_bytes() -> None:
    found = measure("int8", model=("backbone=mini",), pairs=8)
    assert found["artifact_bytes"] < found["dense_bytes"] / 3.5
    for part in (found["store"], found["read"]):
        megabytes = found["dense_bytes"] / 1e6
        assert part["mb_per_second"] * part["seconds"] == pytest.approx(megabytes)
        assert part["mb_per_processor_second"] * part["processor_seconds"] == pytest.approx(
            megabytes
        )


def test_table_by_hand() -> None:
    rates = {"seconds": 2.0, "processor_seconds": 4.0, "mb_per_second": 300.0}
    row = {"artifact_bytes": 150_000_000, "store": rates, "read": rates}
    table = to_markdown({"int8": row}).splitlines()
    assert table[2] == "| int8 | 150.0 | 2.0 | 4.0 | 300 | 2.0 | 4.0 | 300 |"
