"""Tables of paths and captions: CSV, TSV and JSON lines."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mmcompress.data.base import PairData
from mmcompress.data.files import Entry, Files
from mmcompress.data.items import Items
from mmcompress.data.splits import SHARE, complete

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = (".jsonl", ".ndjson")


class Table(PairData):
    """Files named in a table with their captions, as a Lightning data module.

    Rows of one path are captions of one item.

    Args:
        files: split → table; `train` must be one. The suffix says which kind a table is.
        root: what paths are relative to; the folder of their table when None.
        path_column, caption_column: names of the columns.
        val_share: of `train` that becomes `val` where there is no such table.
        augment: image → image, for training.
        **kwargs: of `PairData`.
    Raises:
        ValueError: a table that is missing, of another kind, or without one of the columns.
    """

    name = "table"
    remedy = "set data.root to the folder that the paths of the tables are relative to"

    def __init__(
        self,
        *,
        files: Mapping[str, str],
        root: str | None = None,
        path_column: str = "path",
        caption_column: str = "caption",
        val_share: float = SHARE,
        augment: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if "train" not in files:
            raise ValueError("data.files must name a table for train: data.files.train=pairs.csv")
        self.files = {split: Path(file) for split, file in files.items() if file is not None}
        self.root = None if root is None else Path(root)
        self.columns = path_column, caption_column
        self.val_share, self.augment = val_share, augment

    def build_splits(self) -> dict[str, Items]:
        splits: dict[str, Items] = {
            split: Files(self._entries(file)) for split, file in self.files.items()
        }
        return complete(splits, val_share=self.val_share, augment=self.augment)

    def _entries(self, file: Path) -> list[Entry]:
        texts: dict[str, list[str]] = {}
        for path, caption in read_pairs(file, *self.columns):
            texts.setdefault(path, []).append(caption)
        root = self.root or file.parent
        return [Entry(root / path, path, tuple(captions)) for path, captions in texts.items()]


def read_pairs(file: Path, path_column: str, caption_column: str) -> Iterator[tuple[str, str]]:
    """Path and caption of each row.

    Raises:
        ValueError: the table is missing, of another kind, damaged, or without one of the columns.
    """
    if not file.is_file():
        raise ValueError(f"data.files: {file} is no file: give the path of a table")
    for number, row in enumerate(_rows(file), start=1):
        missing = [c for c in (path_column, caption_column) if row.get(c) in (None, "")]
        if missing:
            raise ValueError(
                f"{file}, row {number}, has no {' and no '.join(missing)}; its columns are "
                f"{', '.join(map(str, row))}: set data.path_column and data.caption_column"
            )
        yield str(row[path_column]), str(row[caption_column])


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    suffix = file.suffix.lower()
    if suffix in DELIMITERS:
        with file.open(encoding="utf-8", newline="") as lines:
            yield from csv.DictReader(lines, delimiter=DELIMITERS[suffix])
        return
    if suffix not in JSON_LINES:
        known = ", ".join([*DELIMITERS, *JSON_LINES])
        raise ValueError(f"data.files: {file} must end in one of {known}")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{file}, line {number}, is no JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number}, is no JSON object")
            yield row
