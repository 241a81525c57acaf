import pytest
import torch

from mmcompress.runtime.latency import (
    MAX_ROUNDS,
    MIN_ROUNDS,
    PAUSE,
    alternate,
    measure_latency,
)


class Clock:
    """Time that passes only when a workload says so."""

    def __init__(self):
        self.now = 0.0
        self.order = []
        self.pauses = []

    def __call__(self):
        return self.now

    def workload(self, name, *durations):
        def run():
            self.order.append(name)
            self.now += durations[len(self.order) // 2 % len(durations)]

        return run


def test_median_of_alternating_runs():
    clock = Clock()
    runs = {"a": clock.workload("a", 1.0, 1.0, 9.0), "b": clock.workload("b", 2.0)}
    assert alternate(runs, seconds=0.0, clock=clock, sleep=clock.pauses.append) == {
        "a": 1.0,
        "b": 2.0,
    }
    # Twice each, and then in each turn one run that wakes what has rested, and one that counts.
    assert clock.order == ["a", "b"] * 2 + ["a", "a", "b", "b"] * MIN_ROUNDS
    # Threads of the one before would take the processor from the other.
    assert clock.pauses == [PAUSE] * 2 * MIN_ROUNDS


def test_measures_for_the_given_time_but_not_for_ever():
    clock = Clock()
    alternate({"a": clock.workload("a", 1.0)}, seconds=10.0, clock=clock, sleep=clock.pauses.append)
    assert len(clock.order) == 2 + 10
    clock = Clock()
    alternate(
        {"a": clock.workload("a", 0.001)}, seconds=10.0, clock=clock, sleep=clock.pauses.append
    )
    assert len(clock.order) == 2 + 2 * MAX_ROUNDS


def test_both_models_run_both_towers_on_batches_of_each_size(model, confused, data):
    latency = measure_latency(model, confused, data, "test", batch_sizes=(1, 4), seconds=0.0)
    assert list(latency["dense_ms"]) == list(latency["compressed_ms"]) == ["1", "4"]
    assert all(0 < ms < 1000 for ms in latency["dense_ms"].values())
    assert latency["dense_pairs_per_s"]["4"] == pytest.approx(4000 / latency["dense_ms"]["4"])
    assert list(latency["compressed_pairs_per_s"]) == ["1", "4"]
    assert latency["threads"] == torch.get_num_threads()
    assert latency["runtime"] == "torch eager float32 on cpu"
    assert latency["no_speedup"] is None
    rounds = [(m, 1, False) for m in ("image", "text") for _ in range(2 + 2 * MIN_ROUNDS)]
    assert confused.calls[: len(rounds)] == model.calls[: len(rounds)] == rounds
    assert {size for _, size, _ in model.calls} == {1, 4}
    assert model.training


def test_a_reason_stands_in_for_a_number(model, confused, data):
    latency = measure_latency(
        model, confused, data, "test", no_speedup="unstructured mask", seconds=0.0
    )
    assert latency["compressed_ms"] is latency["compressed_pairs_per_s"] is None
    assert latency["no_speedup"] == "unstructured mask"
    assert list(latency["dense_ms"]) == ["1", "32"]
    assert confused.calls == []


def test_unknown_split_is_refused(model, data):
    with pytest.raises(ValueError, match="'tset' is not a split"):
        measure_latency(model, model, data, "tset")
