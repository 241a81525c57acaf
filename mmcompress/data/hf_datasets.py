"""Data sets of Hugging Face `datasets`, by name or path; they stay on disk, mapped into memory."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcompress.data.base import PairData
from mmcompress.data.decode import Unreadable, read_audio, read_image
from mmcompress.data.items import Item, Items
from mmcompress.data.prompts import names_of, templates_of
from mmcompress.data.splits import SHARE, complete


class Rows(Items):
    """Rows of a `datasets.Dataset` whose media columns are not decoded by the library.

    Args:
        rows: the data set.
        columns: our name (`image`, `audio`, `text`, `label`) → column.
    """

    def __init__(self, rows: Any, columns: Mapping[str, str]) -> None:
        self.rows, self.columns = rows, dict(columns)
        self.captioned = "text" in self.columns

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Item:
        row = self.rows[index]
        item: Item = {}
        for name, column in self.columns.items():
            value = row[column]
            if name in ("image", "audio"):
                decode = read_image if name == "image" else read_audio
                value = decode(value["bytes"] or Path(value["path"]))
            elif value is None or value == []:
                raise Unreadable(f"no {column}")
            item[name] = value
        return item


class HFDatasets(PairData):
    """One data set of the hub or of a folder, as a Lightning data module.

    Args:
        path: its name on the hub, or a folder that `load_dataset` or `save_to_disk` understands.
        config: its configuration, where it has several.
        image_column, audio_column, text_column, label_column: names; null for what it lacks.
        splits: ours → its own.
        val_share: of `train` that becomes `val` where there is no such split.
        class_names: those of the label column when None.
        templates: a list, or the name of an ensemble.
        augment: image → image, for training.
        **kwargs: of `PairData`.
    Raises:
        ValueError: it cannot be had, or lacks a split or column.
        ModuleNotFoundError: the extra `datasets` is not installed.
    """

    def __init__(
        self,
        *,
        path: str,
        config: str | None = None,
        image_column: str | None = "image",
        audio_column: str | None = None,
        text_column: str | None = None,
        label_column: str | None = None,
        splits: Mapping[str, str] | None = None,
        val_share: float = SHARE,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] = ("a photo of a {}",),
        augment: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path, self.config = path, config
        self.name = Path(path).name
        columns = {
            "image": image_column,
            "audio": audio_column,
            "text": text_column,
            "label": label_column,
        }
        self.columns = {name: column for name, column in columns.items() if column is not None}
        if not {"text", "label"} & self.columns.keys():
            raise ValueError("set data.text_column or data.label_column: items need one of them")
        self.split_names = dict(splits or {"train": "train", "val": "validation", "test": "test"})
        self.val_share, self.augment = val_share, augment
        self.templates = templates_of(templates)
        self.class_names = names_of(class_names or [])

    def build_splits(self) -> dict[str, Items]:
        found = self._load()
        splits: dict[str, Items] = {
            ours: Rows(self._undecoded(found[theirs]), self.columns)
            for ours, theirs in self.split_names.items()
            if theirs in found
        }
        if "train" not in splits:
            raise ValueError(
                f"data.path={self.path!r} has the splits {', '.join(found)}: say with "
                "data.splits.train which one is for training"
            )
        train = splits["train"]
        assert isinstance(train, Rows)
        if "label" in self.columns and not self.class_names:
            self.class_names = getattr(train.rows.features[self.columns["label"]], "names", [])
            if not self.class_names:
                raise ValueError(
                    f"data.path={self.path!r}: column {self.columns['label']} brings no class "
                    "names along: set data.class_names"
                )
        return self.checked(complete(splits, val_share=self.val_share, augment=self.augment))

    def _load(self) -> Any:
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'data=hf_datasets needs the package datasets: pip install "mmcompress[datasets]"'
            ) from error
        try:
            if (Path(self.path) / "dataset_dict.json").is_file():
                return datasets.load_from_disk(self.path)
            return datasets.load_dataset(self.path, self.config)
        # What the library raises on a name, a network or a file that is amiss cannot be listed.
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or "no message"
            raise ValueError(
                f"data.path={self.path!r} cannot be loaded ({type(error).__name__}: {reason}): "
                "give a name of the hub, or a folder"
            ) from error

    def _undecoded(self, rows: Any) -> Any:
        missing = [column for column in self.columns.values() if column not in rows.column_names]
        if missing:
            raise ValueError(
                f"data.path={self.path!r} has no column {' and no column '.join(missing)}; its "
                f"columns are {', '.join(rows.column_names)}"
            )
        for name in ("image", "audio"):
            if name in self.columns:
                column = self.columns[name]
                kind = type(rows.features[column])
                rows = rows.cast_column(column, kind(decode=False))
        return rows
