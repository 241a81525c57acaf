"""What `mmcompress recipes` prints: every recipe in one line, or all settings of one.

All of it is read from YAML files and sources (`mmcompress.compression.catalog`), without torch.
"""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mmcompress.compression.catalog import SELECTORS, RecipeCard, StepCard, recipe, recipes
from mmcompress.records.settings import FAMILIES, NONE, OTHER, STACK

MIN_WIDTH = 120
"""Columns that a pipe gets, where there is no terminal to ask."""

HEADINGS = {
    FAMILIES["sharing"]: "Parameter sharing, W = W_s[I]",
    FAMILIES["lowrank"]: "Low rank, W ≈ U Vᵀ",
    FAMILIES["pruning"]: "Pruning, W' = W ⊙ M",
    FAMILIES["quantization"]: "Quantization, W' = Q(W)",
    STACK: "Several families in one recipe",
    OTHER: "Your own",
    NONE: "Nothing compressed",
}
"""By family, in the order in which they are printed."""


SHARES = {"legal values": 2, "meaning": 5}
"""How the width that is left is shared."""


def show_recipes(
    name: str | None = None, *, as_json: bool = False, folder: Path | None = None
) -> None:
    """Print all recipes by family, or every setting of one.

    Args:
        name: of a recipe; all when None.
        as_json: for programs: a list of all, or the one.
        folder: with configs of your own, `compression/NAME.yaml` among them.
    Raises:
        ValueError: there is no recipe of that name.
    """
    more = [] if folder is None else [folder / "compression"]
    if name is not None:
        card = recipe(name, *more)
        print(json.dumps(asdict(card), indent=2, ensure_ascii=False)) if as_json else _explain(card)
        return
    cards = list(recipes(*more).values())
    if as_json:
        print(json.dumps([asdict(card) for card in cards], indent=2, ensure_ascii=False))
    else:
        _list(cards)


def example_of(card: RecipeCard) -> str:
    """A command that runs the recipe and names a setting of its first step, with its value.

    Example:
        >>> example_of(recipe("int4"))
        'python train.py compression=int4 compression.steps.int4.bits=4'
    """
    words = ["python", "train.py", f"compression={card.name}"]
    for step in card.steps[:1]:
        own = [s for s in step.settings if s.name not in SELECTORS and s.value != "null"]
        words += [f"compression.steps.{step.name}.{s.name}={s.value}" for s in own[:1]]
    return shlex.join(words)


def _list(cards: Sequence[RecipeCard]) -> None:
    console = _console()
    for family, heading in HEADINGS.items():
        own = [card for card in cards if card.family == family]
        if not own:
            continue
        console.print(Text(heading, style="bold"))
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, min_width=max(len(card.name) for card in cards))
        table.add_column()
        for card in own:
            table.add_row(Text(card.name), Text(card.idea))
        console.print(Padding(table, (0, 0, 1, 2), expand=False))
    console.print(Text("mmcompress recipes NAME explains one: every setting and its legal values"))


def _explain(card: RecipeCard) -> None:
    console = _console()
    console.print(Text(card.name, style="bold"), Text(card.idea))
    for step in card.steps:
        console.print()
        console.print(Text(f"compression.steps.{step.name}", style="bold"), Text(step.summary))
        console.print(_settings(step))
        for paper in step.papers:
            console.print(Padding(Text(paper), (0, 0, 0, 2), expand=False))
    console.print()
    console.print(Text(example_of(card)), soft_wrap=True)


def _settings(step: StepCard) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="italic")
    for heading in ("setting", "default", "legal values", "meaning"):
        table.add_column(heading, no_wrap=heading == "setting", ratio=SHARES.get(heading))
    for setting in step.settings:
        row = (setting.name, setting.value, setting.legal, setting.meaning)
        table.add_row(*map(Text, row))
    return table


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, MIN_WIDTH)
    return console
