"""Tables of paths and captions: CSV, TSV and JSON lines."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmcompress.data.base import PairData
from mmcompress.data.files import Entry, Files
from mmcompress.data.items import Items
from mmcompress.data.rows import read_pairs
from mmcompress.data.splits import SHARE, complete


class Table(PairData):
    """Files named in a table with their captions, as a Lightning data module.

    Rows of one path are captions of one item, and so are those of a list in JSON lines.

    Args:
        files: split → table; `train` must be one. The suffix says which kind a table is.
        root: what paths are relative to; the folder of their table when None.
        path_column, caption_column: names of the columns.
        val_share: of `train` that becomes `val` where there is no such table.
        augment: image → image, for training.
        **kwargs: of `PairData`.
    Raises:
        ValueError: a table that is missing, of another kind, or without one of the columns; or a
            row that does not fit, by its line.
    """

    name = "table"
    remedy = "set data.root to the folder that the paths of the tables are relative to"

    def __init__(
        self,
        *,
        files: Mapping[str, str | None],
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
        return self.checked(complete(splits, val_share=self.val_share, augment=self.augment))

    def _entries(self, file: Path) -> list[Entry]:
        texts: dict[str, list[str]] = {}
        for path, captions in read_pairs(file, *self.columns):
            texts.setdefault(path, []).extend(captions)
        root = self.root or file.parent
        return [Entry(root / path, path, tuple(found)) for path, found in texts.items()]
