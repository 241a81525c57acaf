"""How right an answer is, given those that count as right: a number in [0, 1] for each measure."""

from collections.abc import Sequence

from mmcompress.functional.vqa_words import vqa_words


def exact_match(given: str, right: Sequence[str]) -> float:
    """1 where the answer is one of the right ones.

    Example:
        >>> exact_match("red", ["red", "crimson"]), exact_match("a red", ["red"])
        (1.0, 0.0)
    """
    return float(given in right)


def vqa_accuracy(given: str, right: Sequence[str]) -> float:
    """The accuracy of VQA: right where three of the ten people who were asked say the same.

    Antol et al. 2015, arXiv:1505.00468, section 3, as its evaluation server computes it: for each
    person, min(1, those of the others who say so / 3), and the mean of these. Both sides are
    brought to `vqa_words` first. With one answer alone it is an exact match.

    Example:
        >>> vqa_accuracy("Two.", ["2"] * 2 + ["3"] * 8)  # doctest: +NUMBER
        0.6
    """
    said, others = vqa_words(given), [vqa_words(answer) for answer in right]
    if len(others) == 1:
        return float(said == others[0])
    shares = [
        min(1.0, sum(said == other for other in others[:n] + others[n + 1 :]) / 3)
        for n in range(len(others))
    ]
    return sum(shares) / len(shares)


def anls(given: str, right: Sequence[str], *, threshold: float = 0.5) -> float:
    """Average normalized Levenshtein similarity of one answer (Biten et al. 2019, arXiv:1905.13648,
    eq. 1): that with the closest right one, 0 where less than half of it is right.

    Args:
        threshold: similarities below it count as none.

    Example:
        >>> anls("Hello wold", ["hello world"])  # one of eleven characters
        0.9090909090909091
        >>> anls("bye", ["hello world"])
        0.0
    """
    from rapidfuzz.distance import Levenshtein

    said = " ".join(given.lower().split())
    nearest = max(
        Levenshtein.normalized_similarity(said, " ".join(answer.lower().split()))
        for answer in right
    )
    return nearest if nearest > threshold else 0.0


def relaxed_accuracy(given: str, right: Sequence[str], *, tolerance: float = 0.05) -> float:
    """1 where a number lies within 5 % of a right one, or a text is a right one.

    "Relaxed accuracy" of ChartQA (Masry et al. 2022, arXiv:2203.10244, section 5.2, after Methani
    et al. 2020); percentages are shares, letters are compared without their case.

    Args:
        tolerance: share of the right number.

    Example:
        >>> relaxed_accuracy("104", ["100"]), relaxed_accuracy("106", ["100"])
        (1.0, 0.0)
        >>> relaxed_accuracy("50%", ["0.5"]), relaxed_accuracy("Blue", ["blue"])
        (1.0, 1.0)
    """
    return float(any(_near(given, answer, tolerance) for answer in right))


def rouge_l(given: str, right: Sequence[str]) -> float:
    """ROUGE-L with the nearest right answer: F1 of the longest common subsequence of words.

    Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", section 3, by Google's
    rules; without stemming.

    Example:
        >>> rouge_l("a red heart", ["the red heart"])  # doctest: +NUMBER
        0.67
    """
    # Not rouge-score itself: its logger closes the streams that it finds when it is configured.
    from torchmetrics.functional.text import rouge_score

    found = rouge_score([given], [list(right)], accumulate="best", rouge_keys="rougeL")
    return float(found["rougeL_fmeasure"])


def _near(given: str, right: str, tolerance: float) -> bool:
    ours, theirs = _number(given), _number(right)
    if ours is None or theirs is None:
        return given.strip().lower() == right.strip().lower()
    return abs(ours - theirs) <= tolerance * abs(theirs)


def _number(text: str) -> float | None:
    """Of "1,200" 1200, of "5 %" 0.05, and of words none."""
    plain = text.strip().replace(",", "")
    share = plain.endswith("%")
    try:
        value = float(plain.rstrip("% "))
    except ValueError:
        return None
    return value / 100 if share else value
