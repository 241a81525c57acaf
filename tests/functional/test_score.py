"""Intervals against SciPy's bootstrap, the binomial formula and a paired test by hand."""

import copy
import json
import logging

import numpy as np
import pytest
from scipy import stats

from mmcompress.functional.score import Score, bootstrap, interval, intervals


def hits(count: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < share


def test_a_score_is_a_float_that_knows_its_items():
    score = Score([[[1, 1], [2, 4]], [[0, 1], [1, 1]]], facts={"items_apart": 3})
    assert score == (1 / 2 + 3 / 5) / 2
    assert isinstance(score, float)
    assert score.items == 2
    assert json.loads(json.dumps({"a": score})) == {"a": 0.55}
    again = copy.deepcopy(score)
    assert again == score
    assert again.facts == {"items_apart": 3}
    assert (again.parts == score.parts).all()


def test_an_accuracy_is_the_share_of_hits():
    assert Score.of_hits([True, False, True, True]) == 0.75
    assert Score.of_hits([True, False, True, True]).items == 4


def test_the_interval_is_scipys():
    found = hits(400, 0.8, 0)
    low, high = interval(bootstrap([Score.of_hits(found)])[:, 0])
    theirs = stats.bootstrap(
        (found.astype(float),), np.mean, n_resamples=5000, method="percentile", rng=1
    ).confidence_interval
    # Both draw at random: the ends lie 0.001 apart, and an item is 0.0025.
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.004)
    half = 1.96 * np.sqrt(found.mean() * (1 - found.mean()) / 400)
    assert (low, high) == pytest.approx((found.mean() - half, found.mean() + half), abs=0.006)


def test_a_difference_is_paired():
    """The models differ on 4 of 400 items, so it is far more certain than either score."""
    dense = hits(400, 0.8, 0)
    compressed = dense.copy()
    compressed[np.flatnonzero(dense)[:4]] = False
    entry = intervals({"a": Score.of_hits(dense)}, {"a": Score.of_hits(compressed)})["a"]
    low, high = entry["delta"]
    assert low == pytest.approx(-0.02, abs=0.0026)  # 8 and 1 of Poisson(4), 95 %
    assert high == pytest.approx(-0.0025, abs=0.0026)
    width = entry["dense"][1] - entry["dense"][0]
    assert high - low < width / 3
    theirs = stats.bootstrap(
        (compressed.astype(float), dense.astype(float)),
        lambda a, b, axis=-1: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        n_resamples=5000,
        method="percentile",
        rng=1,
    ).confidence_interval
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=0.0026)


def test_equal_models_differ_by_nothing():
    score = Score.of_hits(hits(50, 0.5, 0))
    entry = intervals({"a": score}, {"a": score})["a"]
    assert entry["delta"] == [0.0, 0.0]
    assert entry["dense"] == entry["compressed"]
    assert entry["items"] == 50


def test_pictures_are_drawn_with_all_their_captions():
    """Five captions that stand or fall together tell no more than one."""
    found = hits(200, 0.7, 0).astype(float)
    ones = np.ones(200)
    five = Score(np.stack([5 * found, 5 * ones], axis=1)[:, None])
    alone = Score(np.stack([found, ones], axis=1)[:, None])
    assert interval(bootstrap([five])[:, 0]) == pytest.approx(interval(bootstrap([alone])[:, 0]))


def test_intervals_are_the_same_each_time():
    score = Score.of_hits(hits(100, 0.5, 3))
    assert intervals({}, {"a": score}) == intervals({}, {"a": score})
    assert set(intervals({}, {"a": score})["a"]) == {"items", "compressed"}


def test_metrics_that_know_no_items_get_none():
    assert intervals({"a": 0.5}, {"a": 0.5}) == {}


def test_other_items_cannot_be_paired(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        entry = intervals({"a": Score.of_hits([True] * 3)}, {"a": Score.of_hits([True] * 4)})["a"]
    assert set(entry) == {"items", "compressed"}
    assert "dense model was scored on 3 items and the compressed one on 4" in caplog.text


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    covered = 0
    for seed in range(60):
        low, high = interval(bootstrap([Score.of_hits(hits(300, 0.8, seed))])[:, 0])
        covered += low <= 0.8 <= high
    assert covered >= 52  # 57 expected, sd 1.7


@pytest.mark.parametrize("sizes", [(1,), (3, 7)])
def test_any_number_of_units(sizes: tuple[int, ...]):
    for size in sizes:
        values = bootstrap([Score.of_hits([True] * size)])
        assert (values == 1.0).all()
