"""The report as one HTML file that needs nothing else: no server, no network, no library.

matplotlib draws the pictures; here each point learns which row of the table it is, and colors
become names, so that `page/report.css` can make them light or dark and `page/report.js` can show
the run under the pointer. Without JavaScript the page still says everything.
"""

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from mmcompress.records.schema import Record
from mmcompress.report.axes import GRID
from mmcompress.report.details import Details
from mmcompress.report.formats import Table
from mmcompress.report.pictures import latency_marks, size_marks
from mmcompress.report.plot import (
    INK,
    MUTED,
    SIZE,
    Costs,
    Mark,
    best_of,
    pareto_figure,
    rendered,
)
from mmcompress.report.sections import Section
from mmcompress.report.summary import CAST
from mmcompress.report.table import recipes_table

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
NAMED = {
    INK: "var(--ink)",
    "#000000": "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    "#ffffff": "var(--paper)",
}
"""Color of the picture → what the page's style sheet calls it."""


@dataclass(frozen=True)
class Picture:
    """One plot.

    Attributes:
        title: what is plotted.
        svg: to stand in the page.
        note: what is not in it; empty when all is.
    """

    title: str
    svg: Markup
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One section as the page shows it."""

    section: Section
    table: Table
    pictures: Sequence[Picture]


def page(
    sections: Sequence[Section],
    details: Sequence[Details],
    unfinished: Sequence[Record],
    *,
    root: Path,
) -> str:
    """The HTML.

    Args:
        sections: a table and pictures each.
        details: runs that are shown from close.
        unfinished: records of runs that did not finish.
        root: the folder that the runs were read from.
    """
    folder = Path(__file__).parent / "page"
    environment = Environment(
        loader=PackageLoader("mmcompress.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(
        parts=[_part(section) for section in sections],
        details=details,
        unfinished=unfinished,
        root=root,
        finished=sum(len(section.records) for section in sections),
        style=Markup((folder / "report.css").read_text("utf-8")),
        script=Markup((folder / "report.js").read_text("utf-8")),
    )


def _part(section: Section) -> Part:
    table = recipes_table(section.summaries, section.metric, latency=True)
    pictures = []
    marks, dense = size_marks(section.summaries, section.metric)
    if marks:
        svg = _interactive(section, list(marks), list(marks.values()), dense, SIZE)
        pictures.append(Picture("Accuracy against stored size", svg))
    times, dense, costs = latency_marks(section.summaries, section.metric)
    if times:
        recipes = sum(summary.family != CAST for summary in section.summaries)
        rows = [row for row, _ in times]
        absent = recipes - len(set(rows))
        note = (
            f"Not here: {absent} of {recipes} recipes, whose methods cannot be faster than the "
            "dense model, so that nothing was measured."
        )
        svg = _interactive(section, rows, list(times.values()), dense, costs)
        pictures.append(Picture("Accuracy against latency", svg, note if absent else ""))
    return Part(section, table, pictures)


def _interactive(
    section: Section,
    rows: Sequence[int],
    points: Sequence[Mark],
    dense: Sequence[Mark],
    costs: Costs,
) -> Markup:
    """The plot as SVG, its points told by `data-row`, the index of the summary of each."""
    figure = pareto_figure(
        points, dense, section.metric, costs, width=5.6, height=3.7, labels=False
    )
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    # What is parsed here was written two lines above.
    tree = ET.fromstring(rendered(figure, "svg", text=True))
    best = set(best_of(points, section.metric))
    for group in tree.iter(f"{{{SVG}}}g"):
        kind, _, members = group.get("id", "").partition(":")
        if kind != "marks":
            continue
        del group.attrib["id"]
        indices = [int(i) for i in members.split(",")]
        for i, point in zip(indices, group.iter(f"{{{SVG}}}use"), strict=True):
            point.set("class", "mark")
            point.set("data-row", str(rows[i]))
            ET.SubElement(point, f"{{{SVG}}}title").text = points[i].label
            if i in best:  # all others are reached through the table
                point.set("tabindex", "0")
    tree.set("role", "group")
    for size in ("width", "height"):
        del tree.attrib[size]
    for metadata in tree.findall(f"{{{SVG}}}metadata"):
        tree.remove(metadata)
    text = ET.tostring(tree, encoding="unicode")
    for color, name in NAMED.items():
        text = text.replace(color, name)
    return Markup(text)
