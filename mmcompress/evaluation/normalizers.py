"""How texts are written before they are compared, by name."""

import re
from collections.abc import Callable
from typing import Any

Normalizer = Callable[[str], str]

DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def digits_to_words(text: str) -> str:
    """Small letters alone, each digit a word: for digits that were said one by one.

    Whisper's normalizer makes one number, hence one word, of several digits in a row.

    Example:
        >>> digits_to_words(" 4-5, nine 07.")
        'four five nine zero seven'
    """
    spelled = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", text.lower())
    return " ".join(re.findall(r"[^\W\d_]+", spelled))


def plain(text: str) -> str:
    """Small letters, single spaces.

    Example:
        >>> plain("  A red\\n heart ")
        'a red heart'
    """
    return " ".join(text.lower().split())


def _as_it_is(_: Any) -> Normalizer:
    return lambda text: text


def _whisper(backbone: Any) -> Normalizer:
    """Whisper's own: English by the spellings that come with the model, else basic (Radford et al.
    2022, arXiv:2212.04356, appendix C)."""
    from transformers.models.whisper.english_normalizer import (
        BasicTextNormalizer,
        EnglishTextNormalizer,
    )

    spellings = getattr(backbone, "spellings", None)
    return BasicTextNormalizer() if spellings is None else EnglishTextNormalizer(spellings)


NORMALIZERS: dict[str, Callable[[Any], Normalizer]] = {
    "whisper": _whisper,
    "digits_to_words": lambda _: digits_to_words,
    "plain": lambda _: plain,
    "none": _as_it_is,
}
"""By name, what gives one for a backbone."""


def check_normalizer(name: str, key: str) -> None:
    """Refuse a name that is none.

    Args:
        key: of the configuration that it stands at.
    Raises:
        ValueError: lists the names.
    """
    if name not in NORMALIZERS:
        raise ValueError(f"{key}={name!r} must be one of {', '.join(NORMALIZERS)}")
