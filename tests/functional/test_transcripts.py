"""Word and character errors, against the slow recursion that defines them."""

import itertools
import random

import pytest

pytest.importorskip("jiwer")

from mmcompress.functional.score import Score
from mmcompress.functional.transcripts import character_errors, word_errors


def distance(said: list[str], heard: list[str]) -> int:
    """Levenshtein's, by its recursion over a table."""
    table = [[i + j for j in range(len(heard) + 1)] for i in range(len(said) + 1)]
    for i, j in itertools.product(range(1, len(said) + 1), range(1, len(heard) + 1)):
        table[i][j] = min(
            table[i - 1][j] + 1,
            table[i][j - 1] + 1,
            table[i - 1][j - 1] + (said[i - 1] != heard[j - 1]),
        )
    return table[-1][-1]


def test_errors_are_the_fewest_edits():
    draw = random.Random(0)
    words = ["one", "two", "three"]
    said = [" ".join(draw.choices(words, k=draw.randint(1, 6))) for _ in range(40)]
    heard = [" ".join(draw.choices(words, k=draw.randint(0, 8))) for _ in range(40)]
    pairs = list(zip(said, heard, strict=True))
    expected = [[distance(s.split(), h.split()), len(s.split())] for s, h in pairs]
    assert word_errors(said, heard).tolist() == expected
    expected = [[distance([*s], [*h]), len(s)] for s, h in pairs]
    assert character_errors(said, heard).tolist() == expected


def test_nothing_said_and_something_heard():
    assert word_errors(["", ""], ["", "you you"]).tolist() == [[0, 0], [2, 0]]


def test_no_utterance():
    assert word_errors([], []).shape == (0, 2)


def test_the_rate_is_over_all_words_and_may_exceed_one():
    rows = word_errors(["one", "one two three"], ["one " * 9, "one two three"])
    assert Score(rows[:, None]) == 8 / 4
