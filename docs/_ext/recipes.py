"""Directives of the pages on methods: settings and measured rows, taken from where they are made.

`{recipe} NAME` prints the command, the settings (from the YAML file and the docstrings) and the
measured rows of one recipe. `{best} 4 8 16` lists, for each ratio, what keeps the most accuracy;
`{minilm} 4 bits` what the methods of that strength cost on real weights.
Rows come from the reports below `results/`, as `mmcompress report` wrote them.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from mmcompress.compression.catalog import REQUIRED, SELECTORS, RecipeCard, StepCard, recipes
from mmcompress.system.locations import project_path

RESULTS = Path(__file__).parents[1] / "results"
LATENCY = "latency, batch 32 (dense = 1)"
BEST = 4
"""How many recipes `{best}` lists."""

COLUMNS = {
    "compressed (%)": "mean R@1 (%)",
    "Δ (points)": "Δ (points)",
    "stored (MB)": "stored (MB)",
    "ratio to dense float32": "ratio",
    LATENCY: "latency",
}
"""Columns of a report that are shown, and what they are called here."""


@dataclass(frozen=True)
class Row:
    """One line of a report.

    Attributes:
        label: what the report calls it.
        recipe: `compression=…` of it.
        trained: how long it was fine-tuned, in words; empty when it was not.
        cells: by the report's column.
    """

    label: str
    recipe: str
    trained: str
    cells: dict[str, str]

    def shown(self, column: str) -> str:
        """A cell in short: seeds stand in `name`, and the size hardly depends on them.

        A report has no column that would be empty throughout.
        """
        cell = re.sub(r" \(\d+ seeds\)", "", self.cells.get(column, "–"))
        return cell if COLUMNS[column].endswith(("(%)", "(points)")) else cell.split(" ")[0]

    @property
    def name(self) -> str:
        """What was measured and how."""
        seeds = re.search(r"\((\d+ seeds)\)", self.cells["compressed (%)"])
        return ", ".join(filter(None, [self.label, self.trained, seeds[1] if seeds else ""]))

    def number(self, column: str) -> float:
        """What a cell begins with."""
        return float(self.cells[column].split()[0].replace("−", "-"))


def table_in(path: Path) -> list[dict[str, str]]:
    """The first table of a Markdown file, a dict per line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| recipe"))
    head = [cell.strip() for cell in lines[start].strip("|").split("|")]
    found = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        found.append(dict(zip(head, cells, strict=True)))
    return found


def rows_of_own_settings() -> list[Row]:
    """Each recipe as its file has it, without and with the short fine-tune."""
    sweeps = {"every_recipe": "", "trained_recipes": "60 steps"}
    return [
        Row("own settings", cells["recipe"], trained, cells)
        for sweep, trained in sweeps.items()
        for cells in table_in(RESULTS / sweep / "report.md")
        if "dense" not in cells["recipe"]
    ]


def rows_of_families() -> list[Row]:
    """`sweep=family_pareto`: chosen strengths, three seeds."""
    points = {}
    for path in (project_path("conf") / "experiment" / "pareto").glob("*.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "name" in config:
            parts = {k: v for d in config["defaults"] if isinstance(d, dict) for k, v in d.items()}
            tuned = "pareto/tuned" in config["defaults"]
            points[config["name"]] = (parts["override /compression"], "60 steps" if tuned else "")
    cells = table_in(RESULTS / "family_pareto" / "report.md")
    return [Row(c["recipe"], *points[c["recipe"]], c) for c in cells if c["recipe"] in points]


def rows_of_0_1() -> list[Row]:
    """Rows that version 0.1 measured, with its headline."""
    found = []
    for cells in table_in(RESULTS / "methods.md"):
        label = cells["recipe"]
        name = re.sub(r",? \d\S*( steps)?", "", label).replace(" + ", "_")
        found.append(Row(label, name, "", cells))
    return found


def settings_table(step: StepCard) -> list[str]:
    """The settings of a step, except those that every step has."""
    lines = ["| setting | here | default | legal | meaning |", "| --- | --- | --- | --- | --- |"]
    for s in step.settings:
        if s.name not in SELECTORS:
            default = "–" if s.default == REQUIRED else f"`{s.default}`"
            meaning = s.meaning[:1].upper() + s.meaning[1:]
            cells = [f"`{s.name}`", f"`{s.value}`", default, s.legal, meaning]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines if len(lines) > 2 else []


def measured_table(rows: list[Row], *, with_recipe: bool = False) -> list[str]:
    """Rows with the columns that are shown."""
    head = ["recipe"] * with_recipe + ["measured"]
    lines = ["| " + " | ".join([*head, *COLUMNS.values()]) + " |"]
    lines.append("| " + " | ".join(["---"] * len(head) + ["---:"] * len(COLUMNS)) + " |")
    for row in rows:
        own = [f"`{row.recipe}`"] * with_recipe + [row.name]
        lines.append("| " + " | ".join([*own, *map(row.shown, COLUMNS)]) + " |")
    return lines


def old_table(rows: list[Row]) -> list[str]:
    """Rows of version 0.1, with its columns."""
    columns = ["compressed (%)", "Δ (points)", "stored (MB)", "ratio to dense float32"]
    names = ["mean recall (%)", "Δ (points)", "stored (MB)", "ratio"]
    lines = ["| " + " | ".join(["version 0.1", *names]) + " |", "| --- |" + " ---: |" * len(names)]
    for row in rows:
        cells = [row.cells[c] for c in columns]
        cells[2:] = [cell.split(" ")[0] for cell in cells[2:]]  # hardly depend on the seed
        lines.append("| " + " | ".join([row.label, *cells]) + " |")
    return lines


class FromMarkdown(SphinxDirective):
    """A directive that writes Markdown."""

    def parsed(self, lines: list[str]) -> list[nodes.Node]:
        for path in [
            Path(__file__),
            *RESULTS.glob("*/report.md"),
            *project_path("conf").rglob("*"),
        ]:
            self.env.note_dependency(str(path.resolve()))
        container = nodes.container()
        self.state.nested_parse(StringList(lines, self.get_source_info()[0]), 0, container)
        return container.children


class Recipe(FromMarkdown):
    """`{recipe} NAME`, with `:settings: no` where another recipe has shown them."""

    required_arguments = 1
    option_spec = {"settings": lambda word: directives.choice(word, ("no", "yes"))}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        card = recipes().get(name)
        if card is None:
            raise self.error(f"there is no recipe {name}")
        lines = ["```", f"python train.py compression={name}", "```", ""]
        if self.options.get("settings") != "no":
            lines += self._settings(card)
        rows = [r for r in rows_of_own_settings() + rows_of_families() if r.recipe == name]
        if not rows:
            raise self.error(f"recipe {name} has no measured row: run sweep=every_recipe again")
        rows.sort(key=lambda row: row.number("ratio to dense float32"))
        lines += [*measured_table(rows), ""]
        if not any(r.recipe == name for r in rows_of_families()):
            old = [r for r in rows_of_0_1() if r.recipe == name]
            lines += [*old_table(old), ""] if old else []
        return self.parsed(lines)

    def _settings(self, card: RecipeCard) -> list[str]:
        lines = []
        for step in card.steps:
            table = settings_table(step)
            if table and len(card.steps) > 1:
                lines += [f"Step `{step.name}`:", ""]
            lines += [*table, ""] if table else []
        return lines


class MiniLM(FromMarkdown):
    """`{minilm} STRENGTH`: what methods of one strength cost on All-MiniLM-L6-v2."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        lines = (RESULTS / "minilm.md").read_text(encoding="utf-8").splitlines()
        rows = [line for line in lines[2:] if line.startswith(f"| {self.arguments[0]} |")]
        if not rows:
            raise self.error(f"results/minilm.md has no row of {self.arguments[0]}")
        return self.parsed([*lines[:2], *rows])


class Best(FromMarkdown):
    """`{best} RATIO…`: for each, the recipes of at least that ratio that keep the most R@1.

    `:trained: no` leaves fine-tuned rows out.
    """

    required_arguments = 1
    optional_arguments = 20
    option_spec = {"trained": lambda word: directives.choice(word, ("no", "yes"))}  # noqa: RUF012

    def run(self) -> list[nodes.Node]:
        rows = rows_of_own_settings() + rows_of_families()
        if self.options.get("trained") == "no":
            rows = [row for row in rows if not row.trained]
        rows.sort(key=lambda row: -row.number("compressed (%)"))
        lines = []
        for ratio in map(float, self.arguments):
            best: dict[str, Row] = {}
            for row in rows:
                if row.number("ratio to dense float32") >= ratio:
                    best.setdefault(row.recipe, row)
            lines += [f"**At least {ratio:g}x**", ""]
            lines += [*measured_table([*best.values()][:BEST], with_recipe=True), ""]
        return self.parsed(lines)


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("recipe", Recipe)
    app.add_directive("minilm", MiniLM)
    app.add_directive("best", Best)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
