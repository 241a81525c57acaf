"""What a job gives back to the sweeper, and where its sweep lies."""

from dataclasses import replace

import pytest

from mmcompress.sweeps.callback import LONGEST, sweep_name
from mmcompress.sweeps.job import goals
from tests.report.conftest import as_record, make_record


def test_goals_are_those_of_a_finished_run() -> None:
    record = as_record(make_record("int4", recall=0.86))
    names = ["retrieval/mean_recall", "size/artifact_bytes"]
    assert goals(record, names) == (0.86, 5_000_000)
    assert goals(record, []) is None
    assert goals(replace(record, status="failed"), names) is None
    assert goals(None, names) is None
    with pytest.raises(ValueError, match=r"goals names nope, .*: choose from retrieval/mean_rec"):
        goals(record, ["nope"])


def test_the_same_sweep_has_the_same_name_and_another_has_another() -> None:
    words = ["compression=lowrank,int8", "seed=1,2", "trainer.max_steps=7"]
    name = sweep_name(None, words)
    assert sweep_name(None, [*reversed(words), "logger=none", "callbacks.checkpoint=null"]) == name
    assert sweep_name(None, [*words[:2], "trainer.max_steps=8"]) != name
    assert sweep_name("grid", ["sweep=grid", *words]) == f"grid-{name}"
    assert sweep_name(None, []) == "default"


def test_long_names_are_cut_and_still_differ() -> None:
    first, second = (sweep_name(None, [f"a.{'b' * 100}={value}"]) for value in (1, 2))
    assert len(first) == len(second) < LONGEST + 10
    assert first != second
