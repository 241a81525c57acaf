"""Code, configurations and documentation have one spelling, the American one."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = {"mmcompress": ".py", "conf": ".yaml", "docs": ".md", "scripts": ".py", "examples": ".py"}

BRITISH = re.compile(
    r"(quantis|normalis|parametris|factoris|summaris|standardis|minimis|maximis|randomis|optimis"
    r"|regularis|specialis|tokenis|initialis|organis|recognis|generalis|serialis|synchronis"
    r"|binaris|ternaris|utilis|penalis|visualis|vectoris|characteris|prioritis)(e|ing|ation)"
    r"|colour|grey|behaviour|favour|honour|neighbour|\bcentre|labelled|modelled|artefact|programme\b",
    re.IGNORECASE,
)

OLD_NAMES = re.compile(
    r"neighbour_r|_NEIGHBOUR|data\.grey\.|\"quantise\"|`quantise`|quantization\.quantise"
)
"""Of metrics in stored records, of classes and codecs of version 0.1."""


def test_a_british_word_is_found() -> None:
    assert BRITISH.search("L2-normalised") is not None
    assert BRITISH.search("greyscale neighbours") is not None
    assert BRITISH.search("a precise promise, raised otherwise") is None
    assert BRITISH.search(OLD_NAMES.sub("", "agreement/text_neighbour_r@1")) is None


@pytest.mark.parametrize("place", PLACES)
def test_one_spelling(place: str) -> None:
    files = [
        path
        for path in sorted((ROOT / place).rglob(f"*{PLACES[place]}"))
        if "results" not in path.parts  # what commands have written
    ]
    assert files
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if BRITISH.search(OLD_NAMES.sub("", line))
    ]
    assert not found, "\n".join(found)
