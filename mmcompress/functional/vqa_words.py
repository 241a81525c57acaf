"""How answers of VQA are written before they are compared.

After the evaluation code of the challenge (Antol et al. 2015, arXiv:1505.00468): small letters,
numbers as digits, no articles, contractions with their apostrophe, no punctuation.
"""

import re

_NUMBERS = "zero one two three four five six seven eight nine ten"
DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS.split())} | {"none": "0"}
ARTICLES = ("a", "an", "the")

_CONTRACTIONS = (
    "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's "
    "how'd how'll how's I'd've I'm I've isn't it'd it'll let's ma'am mightn't might've mustn't "
    "must've needn't not've o'clock oughtn't shan't she'd've should've shouldn't somebody'd "
    "someone'd something'd that'd that's there'd there're there's they'd they'll they're they've "
    "'twas wasn't we'd've we've weren't what'll what're what's what've when's where'd where's "
    "where've who'd who'll who's who've why'll why're why's won't would've wouldn't y'all you'd "
    "you'll you're you've"
)
CONTRACTIONS = {word.replace("'", ""): word for word in _CONTRACTIONS.split()}

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"(?<!\d)\.|\.(?!\d)")


def vqa_words(answer: str) -> str:
    """The answer as it is compared.

    Example:
        >>> vqa_words("The two dogs, dont  you think?")
        "2 dogs don't you think"
        >>> vqa_words("1,000.50")
        '1000.50'
    """
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    words = _without_punctuation(text).lower().split()
    kept = [DIGITS.get(word, word) for word in words if DIGITS.get(word, word) not in ARTICLES]
    return " ".join(CONTRACTIONS.get(word, word) for word in kept)


def _without_punctuation(text: str) -> str:
    """A mark beside a space goes, one between letters becomes a space."""
    found, number = text, bool(_COMMA_IN_NUMBER.search(text))
    for mark in PUNCTUATION:
        alone = f"{mark} " in text or f" {mark}" in text or number
        found = found.replace(mark, "" if alone else " ")
    return _PERIOD.sub("", found)
