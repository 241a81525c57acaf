"""One recipe held against one family of models, and what came of it."""

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mmcompress.backbones.card import Card, card_of
from mmcompress.testing.contract import Contract, Refused
from mmcompress.testing.zoo.families import FAMILIES


@dataclass(frozen=True)
class Cell:
    """What became of one recipe on one family.

    Attributes:
        recipe, family: names.
        outcome: `passed`, `refused` or `broken`.
        reason: the error's sentence; empty when it passed.
        only: the towers in which it compresses something; empty when in all.
    """

    recipe: str
    family: str
    outcome: str
    reason: str = ""
    only: str = ""


@cache
def contract(family: str) -> Contract:
    """The family's model, to hold recipes against; it is built once."""
    with tempfile.TemporaryDirectory() as folder:
        return Contract(FAMILIES[family].build(Path(folder)))


def hold(recipe: str, family: str) -> Cell:
    """What becomes of one recipe on one family."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            spared = contract(family).check(recipe, Path(folder) / "artifact")
        except Refused as refusal:
            return Cell(recipe, family, "refused", str(refusal))
        # Whatever else a library raises is what the page is to show.
        except Exception as error:
            return Cell(recipe, family, "broken", f"{type(error).__name__}: {error}")
    towers = [m for m in contract(family).dense.modalities if m not in spared]
    return Cell(recipe, family, "passed", only=" ".join(towers) if spared else "")


def card(family: str) -> Card:
    """What of the family's model may be compressed."""
    return card_of(contract(family).dense)
