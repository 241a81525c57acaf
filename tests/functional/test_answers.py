"""Measures of answers, by hand and against the definitions."""

import itertools

import pytest

pytest.importorskip("rapidfuzz")
pytest.importorskip("rapidfuzz")

from mmcompress.functional.answers import (
    anls,
    exact_match,
    relaxed_accuracy,
    rouge_l,
    vqa_accuracy,
)
from mmcompress.functional.vqa_words import vqa_words


def test_exact_match_is_of_any_right_answer():
    assert [exact_match(g, ["yes", "yeah"]) for g in ("yes", "yeah", "Yes", "no")] == [1, 1, 0, 0]


@pytest.mark.parametrize("matching", range(11))
def test_vqa_accuracy_is_the_mean_over_all_nine_of_ten(matching):
    right = ["red"] * matching + ["blue"] * (10 - matching)
    subsets = list(itertools.combinations(right, 9))
    expected = sum(min(1, s.count("red") / 3) for s in subsets) / len(subsets)
    assert vqa_accuracy("Red.", right) == pytest.approx(expected)


def test_vqa_accuracy_of_one_answer_is_a_match():
    assert vqa_accuracy("the dog", ["dog"]) == 1
    assert vqa_accuracy("a cat", ["dog"]) == 0


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("None", "0"),
        ("an Apple", "apple"),
        ("isnt it", "isn't it"),
        ("3.5 m.", "3.5 m"),
        ("red/blue", "red blue"),
        ("red / blue", "red blue"),
        ("1,000", "1000"),
    ],
)
def test_words_of_vqa(given, expected):
    assert vqa_words(given) == expected


def test_anls_counts_edits_and_gives_nothing_below_half():
    assert anls("2l March 2019", ["21 March 2019", "march"]) == pytest.approx(12 / 13)
    assert anls("abcd", ["abxy"]) == 0  # exactly half is below the threshold of the challenge
    assert anls("abcd", ["abcx"]) == 0.75


@pytest.mark.parametrize(
    ("given", "right", "expected"),
    [
        ("95", "100", 1),
        ("94.9", "100", 0),
        ("1,050", "1000", 1),
        ("-3", "-3.1", 1),
        ("0", "0", 1),
        ("0.01", "0", 0),
        ("12%", "0.12", 1),
        ("12", "0.12", 0),
        ("No", "no", 1),
        ("five", "5", 0),
    ],
)
def test_relaxed_accuracy(given, right, expected):
    assert relaxed_accuracy(given, [right]) == expected


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # "the cat … the mat" of six and five words: four in common and in order
    assert rouge_l("the cat sat on the mat", ["the cat is the mat", "x"]) == pytest.approx(8 / 11)
