"""Regular expressions that match some layers and no others, under each name that a layer has."""

import re
from collections import defaultdict
from collections.abc import Collection

Names = tuple[str, ...]
"""Of one layer: in the library's module, and in its checkpoint, where the two differ."""

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def patterns_of(layers: Collection[Names], others: Collection[Names]) -> list[str]:
    """Patterns as compressed-tensors has them (`re:…`) that match each of `layers`.

    One pattern stands for a place in all blocks, where all blocks have such a layer there.

    Args:
        layers: no two share a name.
        others: that no pattern may match.

    Example:
        >>> patterns_of([("layers.0.up",), ("layers.1.up",)], [("layers.0.down",)])
        ['re:^layers\\\\.\\\\d+\\\\.up$']
        >>> patterns_of([("model.head", "head")], [])
        ['re:^(?:model\\\\.head|head)$']
        >>> patterns_of([("layers.0.up",)], [("layers.1.up",)])
        ['re:^layers\\\\.0\\\\.up$']
    """
    foreign = {_place(name) for names in others for name in names}
    places: dict[Names, list[Names]] = defaultdict(list)
    for names in layers:
        places[tuple(map(_place, names))].append(names)
    found = []
    for place, members in places.items():
        if foreign.isdisjoint(place):
            choices = list(dict.fromkeys(place))
        else:
            choices = [re.escape(name) for names in members for name in dict.fromkeys(names)]
        body = choices[0] if len(choices) == 1 else f"(?:{'|'.join(choices)})"
        found.append(f"re:^{body}$")
    return found


def _place(name: str) -> str:
    """A pattern that matches the name whatever the numbers in it."""
    return r"\d+".join(re.escape(part) for part in _NUMBER.split(name))
