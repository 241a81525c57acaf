"""Rows of tables: nothing is guessed, and what does not fit is refused by its line."""

import ast
import csv
import json
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mmcompress.data.text import check_characters, open_text
from mmcompress.inputs.files import AUDIO_SUFFIXES, IMAGE_SUFFIXES

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")

_CSV_ERRORS = {
    "unexpected end of data": "a quotation mark is opened and never closed",
    "field larger than field limit": (
        f"a cell has more than {csv.field_size_limit():,} characters: close its quotation mark, or "
        "shorten it"
    ),
    "expected after": (
        "text follows a closing quotation mark: write a quotation mark within a cell twice, and "
        "the cell in quotation marks"
    ),
}
"""A part of the library's message → what it means."""

Pair = tuple[str, tuple[str, ...]]
"""A path and its captions."""


def read_pairs(file: Path, path_column: str, caption_column: str) -> Iterator[Pair]:
    """Path and captions of each row; several captions where a row of JSON holds a list of them.

    Raises:
        ValueError: the table is missing, of another kind or encoding, lacks a column, or has a row
            that does not fit; names its line.
    """
    if not file.is_file():
        raise ValueError(f"data.files: {file} is no file: give the path of a table")
    suffix = file.suffix.lower()
    if suffix in DELIMITERS:
        rows = _csv_rows(file, DELIMITERS[suffix], (path_column, caption_column))
    elif suffix in JSON_LINES:
        rows = _json_rows(file, (path_column, caption_column))
    else:
        known = ", ".join([*DELIMITERS, *JSON_LINES])
        raise ValueError(f"data.files: {file} must end in one of {known}")
    for where, path, caption in rows:
        if not isinstance(path, str) or not path:
            raise ValueError(f"{where}, has {path!r} as {path_column}: give the path of a file")
        check_characters(path, where)
        yield path, _captions(caption, where, caption_column)


def _captions(value: Any, where: str, column: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    for text in texts or [""]:
        if text is None or (isinstance(text, str) and not text.strip()):
            raise ValueError(f"{where}, has no {column}: write one, or remove the row")
        if not isinstance(text, str):
            shown = json.dumps(value, default=str)[:60]
            raise ValueError(f"{where}, has {shown} as {column}: give a text, or a list of texts")
        if _is_list(text):
            raise ValueError(
                f"{where}, has a list written as text, {text[:60]!r}, as {column}: write a row for "
                "each caption, or JSON lines with a list"
            )
        check_characters(text, where)
    return tuple(text.strip() for text in texts)


def _is_list(text: str) -> bool:
    """Whether it is how Python or JSON write a list of texts."""
    if not re.match(r"\s*\[\s*['\"]", text):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return isinstance(ast.literal_eval(text.strip()), list)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return False


def _csv_rows(
    file: Path, delimiter: str, columns: tuple[str, str]
) -> Iterator[tuple[str, str, str]]:
    """Place, path and caption of each row."""
    header: list[str] = []
    at = (0, 0)
    with open_text(file, newline="") as lines:
        for line, cells in _records(csv.reader(lines, delimiter=delimiter, strict=True), file):
            where = f"{file}, line {line}"
            if not header:
                header = [name.strip() for name in cells]
                at = _places(header, columns, file, delimiter)
                continue
            if len(cells) != len(header):
                raise ValueError(
                    f"{where}, has {len(cells)} cells and the table {len(header)} columns: write a "
                    f"cell that holds {delimiter!r} in quotation marks"
                )
            if any(_swallows(cell, delimiter, len(header), at[0]) for cell in cells):
                raise ValueError(
                    f"{where}, has a cell that goes on over the rows below: close its quotation "
                    "mark, or write a quotation mark within a cell twice"
                )
            yield where, cells[at[0]], cells[at[1]]
    if not header:
        raise ValueError(f"{file} is empty: its first line must name the columns")


def _records(reader: Any, file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line where it begins and cells of each row that is not blank."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            meant = next((text for part, text in _CSV_ERRORS.items() if part in str(error)), error)
            raise ValueError(f"{file}, line {line}: {meant}") from error
        if cells:
            yield line, cells


def _places(
    header: Sequence[str], columns: tuple[str, str], file: Path, delimiter: str
) -> tuple[int, int]:
    missing = [column for column in columns if column not in header]
    if missing:
        other = next((d for d in (";", "\t", ",", "|") if d != delimiter and d in header[0]), None)
        fix = "set data.path_column and data.caption_column"
        if len(header) == 1 and other:
            fix = f"write {delimiter!r} between cells in place of {other!r}"
        raise ValueError(
            f"{file} has no column {' and no column '.join(missing)}; its columns are "
            f"{', '.join(header)}: {fix}"
        )
    for column in columns:
        if header.count(column) > 1:
            raise ValueError(f"{file} has {header.count(column)} columns {column}: rename one")
    return header.index(columns[0]), header.index(columns[1])


def _swallows(cell: str, delimiter: str, columns: int, path_at: int) -> bool:
    """Whether one of its later lines is a row of the table, as after a quotation mark left open."""
    for line in cell.splitlines()[1:]:
        parts = line.split(delimiter)
        if len(parts) >= columns:
            suffix = Path(parts[path_at].strip('"')).suffix.lower()
            if suffix in (*IMAGE_SUFFIXES, *AUDIO_SUFFIXES):
                return True
    return False


def _json_rows(file: Path, columns: tuple[str, str]) -> Iterator[tuple[str, Any, Any]]:
    """Place, path and caption of each line that is not blank."""
    for where, row in json_objects(file):
        missing = [column for column in columns if column not in row]
        if missing:
            raise ValueError(
                f"{where}, has no {' and no '.join(missing)}; its keys are {', '.join(row)}: "
                "set data.path_column and data.caption_column"
            )
        yield where, row[columns[0]], row[columns[1]]


def json_objects(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Place and object of each line of JSON that is not blank.

    Raises:
        ValueError: a line is no JSON object; names it.
    """
    with open_text(file) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{file}, line {number}"
            try:
                row = json.loads(line, object_pairs_hook=_unique)
            except (ValueError, RecursionError) as error:
                raise ValueError(
                    f"{where}, is no JSON ({error}): write one object in each line"
                ) from error
            if not isinstance(row, dict):
                raise ValueError(f"{where}, is no JSON object")
            yield where, row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found
