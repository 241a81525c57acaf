"""Errors of transcripts, utterance by utterance, by jiwer."""

from collections.abc import Sequence

import numpy as np


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
    """Errors and words of each utterance, (N, 2) int64: their sums' ratio is the word error rate.

    An error is a word that is substituted, deleted or inserted in the alignment with the fewest of
    them; words are those of the reference. The rate may exceed 1.

    Args:
        references: what was said, normalized; an empty one has no words, and each word that is
            heard is an error.
        hypotheses: what was heard, normalized alike.

    Example:
        >>> word_errors(["one two three", "four"], ["one too three", "four four"]).tolist()
        [[1, 3], [1, 1]]
    """
    from jiwer import process_words

    pairs = zip(references, hypotheses, strict=True)
    return _counted([process_words(said, heard) for said, heard in pairs])


def character_errors(references: Sequence[str], hypotheses: Sequence[str]) -> np.ndarray:
    """Errors and characters of each utterance, (N, 2) int64, as `word_errors` counts words.

    Example:
        >>> character_errors(["two"], ["too"]).tolist()
        [[1, 3]]
    """
    from jiwer import process_characters

    pairs = zip(references, hypotheses, strict=True)
    return _counted([process_characters(said, heard) for said, heard in pairs])


def _counted(outputs: Sequence[object]) -> np.ndarray:
    """From jiwer's alignments, of which each holds one utterance."""
    rows = [
        [
            one.substitutions + one.deletions + one.insertions,  # type: ignore[attr-defined]
            one.hits + one.substitutions + one.deletions,  # type: ignore[attr-defined]
        ]
        for one in outputs
    ]
    return np.array(rows, dtype=np.int64).reshape(-1, 2)
