"""The page that says which recipes hold on which families."""

from collections import Counter
from collections.abc import Mapping, Sequence

from mmcompress.backbones.card import Card, CardRow
from mmcompress.testing.holding import Cell

GROUPS = {
    "open_clip": "open_clip, its own text tower",
    "open_clip/vit_": "open_clip, a text tower of transformers",
    "hf": "transformers",
    "": "sentences, captions, and models of no library",
}
"""Start of a family's name → heading; the longest that fits counts."""


def document(
    cells: Sequence[Cell],
    cards: Mapping[str, Card],
    *,
    recipes: Sequence[str],
    settings: Mapping[str, Sequence[str]],
    versions: Mapping[str, str],
    command: str,
) -> str:
    """Markdown.

    Args:
        cells: one for each recipe on each family.
        cards: by family, in the order of the page.
        recipes: in the order of the page.
        settings: what differs from the recipe's file, by recipe.
        versions: of libraries.
        command: that makes the page.
    """
    counts = Counter(cell.outcome for cell in cells)
    notes = _numbered(cells)
    parts = [
        "# Families of models, and the recipes that hold on them",
        f"Made by `{command}`. Do not edit.",
        PROMISE,
        f"**{len(cards)} families × {len(recipes)} recipes: {counts['passed']} hold, "
        f"{counts['refused']} refused, {counts['broken']} broken.** ✓ holds; a tower beside it is "
        "the only one in which each step of the recipe finds something to compress; a number "
        "stands for the sentence below with which the recipe refuses the model.",
        *_matrices(cells, list(cards), recipes, notes),
        "## Why a recipe does not apply",
        "\n".join(f"{number}. {reason}" for reason, number in notes.items()),
        "## What of each family is a target",
        COVERAGE,
        _coverage_table(cards),
        ROLES,
        _role_table(cards),
        "## Settings",
        "The models have two layers of 32 to 128 units, so that a few settings differ from "
        "`conf/compression/`:",
        "\n".join(f"* `{name}`: `{' '.join(given)}`" for name, given in settings.items()),
        "Versions: " + ", ".join(f"{name} {v}" for name, v in versions.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


PROMISE = """\
Every model is a small one of the family's real architecture with random weights, every recipe one
of `conf/compression/`. That a recipe **holds** means: it applies; the same plan and the same
weights come out twice, and a resumed run gets the shapes it needs from the plan; gradients are
finite and reach everything that the dense model trains; after training, baking changes no output
(where heads or neurons are cut out in the end, by no more than rounding); what is saved and loaded
gives every tensor, every output and every input bit for bit; the bytes of the file add up; and the
weights take fewer of them, but for `none`, `activations` and `qwt`, which store nothing smaller."""

COVERAGE = """\
Share of the parameters that a recipe may pick, and what the others are. Shares of a model in full
size are larger, for matrices grow faster than biases."""


ROLES = """\
How many targets there are, by what they do. Recipes that cut out attention heads, neurons of an MLP
or whole blocks work in the towers that have modules of that kind, and leave the others as they are.
`mmcompress targets backbone=…` prints the same of any model."""


def _numbered(cells: Sequence[Cell]) -> dict[str, int]:
    """Sentence → its number, in order of appearance."""
    reasons = dict.fromkeys(_sentence(cell) for cell in cells if cell.reason)
    return {reason: number for number, reason in enumerate(reasons, start=1)}


def _sentence(cell: Cell) -> str:
    reason = cell.reason.replace("*", r"\*")  # else it would be emphasis
    return f"**broken**: {reason}" if cell.outcome == "broken" else reason


def _matrices(
    cells: Sequence[Cell], families: Sequence[str], recipes: Sequence[str], notes: dict[str, int]
) -> list[str]:
    found = {(cell.recipe, cell.family): cell for cell in cells}
    parts = []
    for start, heading in GROUPS.items():
        members = [name for name in families if _group(name) == start]
        if not members:
            continue
        rows = [["recipe", *members], ["---", *[":---:"] * len(members)]]
        for recipe in recipes:
            marks = []
            for family in members:
                cell = found[recipe, family]
                mark = f"✓ {cell.only}".strip() if not cell.reason else str(notes[_sentence(cell)])
                marks.append(f"**{mark}**" if cell.outcome == "broken" else mark)
            rows.append([f"`{recipe}`", *marks])
        parts += [f"## {heading}", _table(rows)]
    return parts


def _group(family: str) -> str:
    fits = [start for start in GROUPS if family.startswith(start)]
    return max(fits, key=len)


def _coverage_table(cards: Mapping[str, Card]) -> str:
    rows = [
        ["family", "parameters", "targets (%)", "left dense (%)"],
        ["---", "---:", "---:", "---"],
    ]
    for family, card in cards.items():
        left = [f"{r} {100 * n / card.parameters:.2f}" for r, n in card.left.items()]
        share = 100 * card.targets / card.parameters
        rows.append([family, f"{card.parameters:,}", f"{share:.1f}", ", ".join(left)])
    return _table(rows)


def _role_table(cards: Mapping[str, Card]) -> str:
    rows = [["family", "tower", "weights", "modules"], ["---"] * 4]
    for family, card in cards.items():
        towers = dict.fromkeys(row.modality for row in card.weights)
        for tower in towers:
            found = (_counted([r for r in part if r.modality == tower]) for part in _parts(card))
            rows.append([family, tower, *found])
    return _table(rows)


def _parts(card: Card) -> tuple[list[CardRow], list[CardRow]]:
    return card.weights, card.units


def _counted(rows: Sequence[CardRow]) -> str:
    """Role → how many, whatever their granularity."""
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row.role] += row.count
    return ", ".join(f"`{role}` {count}" for role, count in counts.items()) or "none"


def _table(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
