"""Rows of a table whose results are kept: only what has not finished before is run."""

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from mmcompress.config.compose import compose_config, plain
from mmcompress.records.settings import config_hash

Row = TypeVar("Row")
Result = TypeVar("Result")


def run_missing(
    rows: Sequence[Row],
    find: Callable[[Row], Result | None],
    run: Callable[[Row], Result],
    *,
    title: Callable[[Row], str],
    table: str = "",
) -> Iterator[tuple[Row, Result]]:
    """Each row with its result, in order; an interrupted table goes on where it stopped.

    Args:
        rows: of the table.
        find: result of a row that has finished before, None where it has to run.
        run: the result of a row, made now.
        title: what standard error calls a row that runs.
        table: stands before its number there.

    Example:
        >>> kept = {"int8": 0.9}
        >>> dict(run_missing(["int8"], kept.get, float, title=str))
        {'int8': 0.9}
    """
    for number, row in enumerate(rows, start=1):
        result = find(row)
        if result is None:
            place = f"{table} {number}/{len(rows)}".strip()
            print(f"[{place}] {title(row)}", file=sys.stderr, flush=True)
            result = run(row)
        yield row, result


def hash_of(overrides: Sequence[str]) -> str:
    """Of the configuration that a run of `train.py` has in its record, whatever its folder and
    name."""
    return config_hash(plain(compose_config(*overrides, "name=any", "run_dir=__any__")))
