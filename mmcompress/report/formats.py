"""Tables as Markdown, LaTeX and CSV."""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcompress.system.text import printable

ABSENT = "–"

LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "Δ": r"$\Delta$",
    "–": r"--",
}
"""What a character is in running text of any LaTeX since 2018, whose input is UTF-8."""


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
"""How a text begins that spreadsheets take for a formula."""


@dataclass(frozen=True)
class Cell:
    """A number as it is shown and as it is sorted.

    Attributes:
        value: None where there is none.
        repeated: whether the text is a mean over several seeds.
    """

    text: str
    value: float | None
    repeated: bool = False


@dataclass(frozen=True)
class Table:
    """Names on the left, numbers right of them.

    Attributes:
        header: of all columns, the names' first.
        names, seeds, rows: one per line; `seeds` is how many runs it puts together.
    """

    header: tuple[str, ...]
    names: tuple[str, ...]
    seeds: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]


def markdown(table: Table) -> str:
    """With the number of seeds in each cell that is a mean."""
    lines = [table.header, ("---", *["---:"] * (len(table.header) - 1))]
    for name, seeds, row in zip(table.names, table.seeds, table.rows, strict=True):
        cells = [f"{c.text} ({seeds} seeds)" if c.repeated else c.text for c in row]
        lines.append((name, *cells))
    return markdown_lines(lines)


def markdown_lines(lines: Iterable[Sequence[str]]) -> str:
    """Rows of cells between bars; each cell is text, whatever it holds."""
    rows = ([markdown_text(cell) for cell in cells] for cells in lines)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def markdown_text(text: str) -> str:
    r"""Escaped for Markdown, where it may stand in a table: no HTML, no link, no end of the cell.

    Example:
        >>> markdown_text("a|b <img src=x>"), markdown_text("int4 (bits=4) & low_rank")
        ('a\\|b &lt;img src=x>', 'int4 (bits=4) & low_rank')
    """
    text = re.sub(r"&(?=#?\w+;)", "&amp;", printable(text)).replace("<", "&lt;")
    return text.replace("\\", r"\\").replace("|", r"\|").replace("](", r"]\(")


def markdown_code(text: str) -> str:
    r"""As code in a line of Markdown; backticks in it do not end it.

    Example:
        >>> markdown_code("a=1"), markdown_code("a=`b`")
        ('`a=1`', '`` a=`b` ``')
    """
    longest = max(map(len, re.findall("`+", text)), default=0)
    space = " " * (longest > 0)
    fence = "`" * (longest + 1)
    return f"{fence}{space}{printable(text)}{space}{fence}"


def latex(table: Table) -> str:
    """A `tabular` for the package booktabs, with the number of seeds in a column of its own."""
    several = max(table.seeds, default=1) > 1
    header = [table.header[0], *["seeds"] * several, *table.header[1:]]
    lines = [
        "% \\usepackage{booktabs}; mean ± sample standard deviation over seeds",
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        _latex_row(header),
        r"\midrule",
    ]
    for name, seeds, row in zip(table.names, table.seeds, table.rows, strict=True):
        lines.append(_latex_row([name, *[str(seeds)] * several, *(cell.text for cell in row)]))
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    row = " & ".join(latex_text(cell) for cell in cells) + r" \\"
    # The line break before it would take these for its own argument.
    return f"{{{row[0]}}}{row[1:]}" if row.startswith(("[", "*")) else row


def latex_text(text: str) -> str:
    r"""Escaped for LaTeX.

    Example:
        >>> latex_text("50 % of a_b")
        '50 \\% of a\\_b'
    """
    return "".join(LATEX.get(character, character) for character in printable(text))


def comma_separated(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""CSV with every key that some row has, by first appearance; empty where one lacks it.

    A text that a spreadsheet would take for a formula has an apostrophe before it. Numbers are
    numbers.

    Example:
        >>> comma_separated([{"a": 1}, {"a": 2, "b": "x,y"}])
        'a,b\n1,\n2,"x,y"\n'
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_cell, keys))
    writer.writerows([_cell(row.get(key)) for key in keys] for row in rows)
    return text.getvalue()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    return ("'" if value.startswith(FORMULA) else "") + printable(value)
