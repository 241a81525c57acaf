"""Ours beside the published, with the difference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcompress.papers.published import Published
from mmcompress.papers.table import Column, PaperTable, Row, Scale
from mmcompress.records.schema import Record
from mmcompress.report.formats import ABSENT, markdown_lines
from mmcompress.report.metrics import digits, scale
from mmcompress.report.table import MEGABYTE

HEADLINES = {
    "smoke": (
        "scale=smoke: the packaged model on the packaged data. Another model on other data has "
        "other values: what can be compared is the change from the dense row, in parentheses."
    ),
    "full": "scale=full: the paper's models and data.",
}


@dataclass(frozen=True)
class Line:
    """One row of the finished table.

    Attributes:
        ours, changes: by column: our value, and its change from the dense row.
        published, published_changes: by column, as ours.
        differences: by column, ours minus theirs: of values at scale=full, of changes at smoke,
            where another model on other data has nothing else to compare.
        size: what we stored; empty when nothing ran.
        published_size: in the paper's convention.
        problem: why nothing ran, empty when it did.
    """

    row: str
    ours: Mapping[str, float]
    changes: Mapping[str, float]
    published: Mapping[str, float]
    published_changes: Mapping[str, float]
    differences: Mapping[str, float]
    size: str
    published_size: str
    problem: str = ""


def lines(
    table: PaperTable,
    chosen: Scale,
    results: Mapping[tuple[str, str | None], Record | str],
    published: Mapping[tuple[str, str], Published],
) -> list[Line]:
    """Every row of a table.

    Args:
        chosen: the scale.
        results: (row, data set or None) → record of its run, or why there is none.
        published: of `PaperTable.cells`.
    """
    values = {row.name: _ours(table, row, chosen, results) for row in table.rows}
    theirs = {
        row.name: {
            column.name: published[row.name, column.name].value
            for column in table.columns
            if (row.name, column.name) in published
        }
        for row in table.rows
    }
    found = []
    for row in table.rows:
        ours, known = values[row.name], theirs[row.name]
        changes = _changes(table, row, values)
        known_changes = _changes(table, row, theirs)
        differences = {}
        for column in table.columns:
            key = column.name
            if not column.compare or key not in ours or key not in known:
                continue
            if chosen == "full":
                differences[key] = ours[key] - known[key]
            elif key in changes and key in known_changes:
                differences[key] = changes[key] - known_changes[key]
        records = [results.get((row.name, _data(c, chosen)), "not run") for c in table.columns]
        sizes = [published[k].size for k in published if k[0] == row.name and published[k].size]
        found.append(
            Line(
                row.name,
                ours,
                changes,
                known,
                known_changes,
                differences,
                size=next((_size(r) for r in records if not isinstance(r, str)), ""),
                published_size=sizes[0] if sizes else "",
                problem=next((r for r in records if isinstance(r, str)), ""),
            )
        )
    return found


def _data(column: Column, chosen: Scale) -> str | None:
    return column.data if chosen == "full" else None


def _ours(
    table: PaperTable,
    row: Row,
    chosen: Scale,
    results: Mapping[tuple[str, str | None], Record | str],
) -> dict[str, float]:
    """Column → value, as it is shown."""
    values = {}
    for column in table.columns:
        record = results.get((row.name, _data(column, chosen)), "")
        metric = column.metric_at(chosen)
        if not isinstance(record, str) and metric in record.metrics.compressed:
            value = record.metrics.compressed[metric]
            values[column.name] = scale(column.metric) * value
    return values


def _changes(
    table: PaperTable, row: Row, values: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    if table.dense is None or row.name == table.dense or row.alone:
        return {}
    dense = values[table.dense]
    return {key: value - dense[key] for key, value in values[row.name].items() if key in dense}


def _size(record: Record) -> str:
    size = record.stored
    stored = size.artifact_bytes / MEGABYTE
    return f"{stored:.2f} MB, {size.compression_ratio:.2f}×"


def table_markdown(
    table: PaperTable,
    found: Sequence[Line],
    published: Mapping[tuple[str, str], Published],
) -> str:
    """Title, table, problems, conventions and sources; `HEADLINES` say how to read it."""
    header = ["row"]
    for column in table.columns:
        header += [f"{column.name}: ours", "published", "difference"]
    header += ["stored by ours", "size in the source"]
    rows: list[Sequence[str]] = [header, ["---", *["---:"] * (len(header) - 1)]]
    for line in found:
        cells = [line.row]
        for column in table.columns:
            key, places = column.name, digits(column.metric)
            cells += [
                _cell(line.ours, line.changes, key, places),
                _cell(line.published, line.published_changes, key, places),
                _signed(line.differences.get(key), places),
            ]
        rows.append([*cells, line.size or ABSENT, line.published_size or ABSENT])
    parts = [f"## {table.title}\n", markdown_lines(rows)]
    problems = [f"- {line.row}: {line.problem}" for line in found if line.problem]
    if problems:
        parts.append("\n".join(problems) + "\n")
    parts.append(f"Conventions: {table.conventions}\n")
    if published:
        sources = dict.fromkeys(
            f"{p.source}{' (second-hand)' if p.secondhand else ''}" for p in published.values()
        )
        parts.append(f"Published numbers: {'; '.join(sources)}.\n")
    return "\n".join(parts)


def _cell(values: Mapping[str, float], changes: Mapping[str, float], key: str, places: int) -> str:
    if key not in values:
        return ABSENT
    text = f"{values[key]:,.{places}f}" if values[key] < 1000 else f"{values[key]:,.0f}"
    return f"{text} ({_signed(changes[key], places)})" if key in changes else text


def _signed(value: float | None, places: int) -> str:
    if value is None:
        return ABSENT
    rounded = round(value, places) + 0.0
    text = f"{rounded:+,.{places}f}" if abs(rounded) < 1000 else f"{rounded:+,.0f}"
    return (text if rounded else f"{0:.{places}f}").replace("-", "−")


def values_of(table: PaperTable, found: Sequence[Line]) -> list[dict[str, Any]]:
    """Plain numbers for a CSV file: one dict per row and column."""
    return [
        {
            "table": table.name,
            "row": line.row,
            "column": column.name,
            "ours": line.ours.get(column.name),
            "published": line.published.get(column.name),
            "difference": line.differences.get(column.name),
            "stored": line.size,
            "problem": line.problem,
        }
        for line in found
        for column in table.columns
    ]
