"""How texts are written before they are compared."""

from types import SimpleNamespace

import pytest

from mmcompress.evaluation.normalizers import NORMALIZERS, check_normalizer


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (" 4567", "four five six seven"),
        ("Four, five; SIX!", "four five six"),
        ("4-5 nine", "four five nine"),
        ("zero_1", "zero one"),
        ("...", ""),
    ],
)
def test_digits_become_words_one_by_one(given, expected):
    assert NORMALIZERS["digits_to_words"](None)(given) == expected


def test_whispers_makes_one_word_of_many_digits_and_spells_by_the_model():
    normalize = NORMALIZERS["whisper"](SimpleNamespace(spellings={"mum": "mom"}))
    assert normalize("Mr. Smith's mum: four five six") == "mister smith is mom 456"


def test_whispers_for_other_languages():
    assert NORMALIZERS["whisper"](SimpleNamespace())("¡Hola, Señor!").strip() == "hola señor"


def test_an_unknown_name_is_one_sentence():
    with pytest.raises(ValueError, match=r"^transcription\.normalizer='wispr' must be one of whis"):
        check_normalizer("wispr", "transcription.normalizer")
