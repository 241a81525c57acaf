"""The page that says what becomes of every recipe and every family in every export."""

import argparse
import json
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import torch

from mmcompress.benchmarks.rows import run_missing
from mmcompress.config.errors import in_one_sentence
from mmcompress.exports.check import ITEMS, LARGEST, LEAST_COSINE
from mmcompress.records.environment import git_commit
from mmcompress.report.formats import ABSENT, markdown_lines, markdown_text
from mmcompress.system.files import write_atomically, write_json
from mmcompress.testing.contract import RECIPES
from mmcompress.testing.exporting import COLUMNS, Line, Outcome, export_all
from mmcompress.testing.zoo.families import FAMILIES

MODELS = ("hf/clip", "open_clip/vit")
"""On which every recipe is tried: those of the two libraries that checkpoints are written for."""

ONE_OF_EACH = ("int4", "lowrank_int8", "w8a8")
"""Recipes that are tried on every family: weights alone, factors, and rounded inputs."""

LIBRARIES = (
    *("torch", "open_clip_torch", "transformers", "onnxscript", "onnxruntime", "openvino"),
    "compressed-tensors",
)


@in_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for exports.md and .json")
    parser.add_argument("--work", type=Path, help="folder that keeps rows for another time")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, help="make no page, only these")
    args = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        pairs = [pair for pair in all_pairs() if not args.families or pair[1] in args.families]
        lines = {(line.recipe, line.family): line for line in walk(pairs, work)}
    if not args.families:
        write(lines, args.out)
    broken = [
        f"{line.recipe} on {line.family} to {name}: {outcome.reason}"
        for line in lines.values()
        for name, outcome in line.outcomes.items()
        if outcome.kind == "broken"
    ]
    if broken:
        sys.exit("error: " + "\n".join(broken))


def all_pairs() -> list[tuple[str, str]]:
    """Recipe and family of every line, family by family, for the last model is kept."""
    every = [(recipe, family) for family in MODELS for recipe in RECIPES]
    few = [(recipe, family) for family in FAMILIES for recipe in ONE_OF_EACH]
    return list(dict.fromkeys([*few, *every]))


def walk(pairs: Sequence[tuple[str, str]], work: Path) -> Iterator[Line]:
    """The line of each pair of recipe and family.

    Args:
        pairs: of `all_pairs`.
        work: folder for lines; those that it holds are not made again.
    """

    def place(pair: tuple[str, str]) -> Path:
        return work / f"{'_'.join(pair).replace('/', '_')}.json"

    def find(pair: tuple[str, str]) -> Line | None:
        return Line.of_json(json.loads(place(pair).read_bytes())) if place(pair).exists() else None

    def run(pair: tuple[str, str]) -> Line:
        line = export_all(*pair)
        write_json(place(pair), line.to_json())
        return line

    for _, line in run_missing(pairs, find, run, title=" on ".join):
        yield line


def write(lines: Mapping[tuple[str, str], Line], out: Path) -> None:
    """Write the page and its numbers."""
    versions = {name: version(name) for name in LIBRARIES}
    page = document(
        {family: [lines[recipe, family] for recipe in RECIPES] for family in MODELS},
        [lines[recipe, family] for family in FAMILIES for recipe in ONE_OF_EACH],
        versions=versions,
        command="python scripts/make_exports.py --out docs/results",
    )
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "exports.md", lambda file: file.write(page.encode()))
    rows = [line.to_json() for line in lines.values()]
    write_json(out / "exports.json", {"rows": rows, "versions": versions, "commit": git_commit()})


def document(
    recipes: Mapping[str, Sequence[Line]],
    families: Sequence[Line],
    *,
    versions: Mapping[str, str],
    command: str,
) -> str:
    """Markdown.

    Args:
        recipes: family → a line for each recipe, in the order of the page.
        families: lines of every family with a few recipes, in the order of the page.
        versions: of libraries.
        command: that makes the page.
    """
    every = [line for lines in recipes.values() for line in lines] + list(families)
    notes = _numbered(every)
    parts = [
        "# Every recipe and every family in every export",
        f"Made by `{command}`. Do not edit.",
        KEY,
        _counts(every),
        *(part for family, lines in recipes.items() for part in _recipes(family, lines, notes)),
        "## Every family",
        _families(families, notes),
        "## Why an export is refused",
        "\n".join(f"{number}. {reason}" for reason, number in notes.items()),
        "Versions: " + ", ".join(f"{name} {v}" for name, v in versions.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


KEY = f"""\
Every model is a small one of the family's real architecture with random weights, every recipe one
of `conf/compression/`. Each artifact is exported, the export is read by the library or runtime that
it is for, and {ITEMS} embeddings of each modality are compared with those of the artifact. They
differ by at most {LARGEST:g} in a value; where a recipe rounds inputs, which may fall either way,
their mean cosine is at least {LEAST_COSINE}. `open_clip` and `hf` are dense checkpoints.

* `exact`: the weights are the artifact's, and their codes stay codes.
* `exact, 12 % floats`: the weights are the artifact's; 12 % of the bytes hold codes as floats.
* `12 % float16`: 12 % of the bytes were rounded to float16, for no container holds them exactly.
* `†`: written and not read back. transformers embeds nothing by a model that writes captions, and
  does not load packed weights of some models, which `transformers` as a target takes care of.
* a number: refused, with the sentence below.
* `{ABSENT}`: the recipe does not apply to the model ([why](models.md))."""


def _counts(lines: Iterable[Line]) -> str:
    outcomes = [outcome for line in lines for outcome in line.outcomes.values()]
    counts = Counter(outcome.kind for outcome in outcomes)
    written = [o for line in lines for o in line.outcomes.values() if o.kind == "written"]
    exact = sum(outcome.rounded == 0 for outcome in written)
    weights = [o.largest for line in lines if not line.rounds_inputs for o in _compared(line)]
    inputs = [o.cosine for line in lines if line.rounds_inputs for o in _compared(line)]
    far = f"The largest difference is {max(weights):.1e}" if weights else ""
    near = f", the least mean cosine where inputs are rounded {min(inputs):.5f}" if inputs else ""
    return (
        f"**{len(outcomes)} exports: {counts['written']} written, {exact} of them exact, "
        f"{counts['refused']} refused, {counts['broken']} broken.** {far}{near}."
    )


def _compared(line: Line) -> list[Outcome]:
    return [o for o in line.outcomes.values() if o.kind == "written" and o.compared]


def _numbered(lines: Sequence[Line]) -> dict[str, int]:
    """Sentence → its number, in order of appearance."""
    outcomes = (line.outcomes[name] for line in lines if line.outcomes for name in COLUMNS)
    reasons = dict.fromkeys(_sentence(outcome) for outcome in outcomes if outcome.reason)
    return {reason: number for number, reason in enumerate(reasons, start=1)}


def _sentence(outcome: Outcome) -> str:
    reason = markdown_text(outcome.reason).replace("*", r"\*")
    return f"**broken**: {reason}" if outcome.kind == "broken" else reason


def _recipes(family: str, lines: Sequence[Line], notes: Mapping[str, int]) -> list[str]:
    columns = [
        name
        for name in COLUMNS
        if any(line.outcomes and line.outcomes[name].kind == "written" for line in lines)
    ]
    rows = [[f"`{line.recipe}`", *(_mark(line, name, notes) for name in columns)] for line in lines]
    return [f"## Every recipe on {family}", _table(["recipe", *columns], rows)]


def _families(lines: Sequence[Line], notes: Mapping[str, int]) -> str:
    rows = [
        [line.family, f"`{line.recipe}`", *(_mark(line, name, notes) for name in COLUMNS)]
        for line in lines
    ]
    return _table(["family", "recipe", *COLUMNS], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_lines([header, ["---"] * len(header), *rows]).rstrip()


def _mark(line: Line, name: str, notes: Mapping[str, int]) -> str:
    if not line.outcomes:
        return ABSENT
    outcome = line.outcomes[name]
    if outcome.reason:
        number = notes[_sentence(outcome)]
        return f"**{number}**" if outcome.kind == "broken" else f"{number}"
    unread = "" if outcome.compared else " †"
    if outcome.rounded:
        return f"{_percent(outcome.rounded)} float16{unread}"
    floats = f", {_percent(outcome.floats)} floats" if outcome.floats else ""
    return f"exact{floats}{unread}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"
