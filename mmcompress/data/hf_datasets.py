"""Data sets of Hugging Face `datasets`, by name or path; they stay on disk, mapped into memory."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcompress.data.base import PairData
from mmcompress.data.decode import read_audio
from mmcompress.data.items import Item, Items
from mmcompress.data.losses import Losses
from mmcompress.data.prompts import names_of, templates_of
from mmcompress.data.splits import ALSO, SHARE, complete
from mmcompress.inputs.files import Unreadable, read_image

log = logging.getLogger(__name__)


class Rows(Items):
    """Rows of a `datasets.Dataset` whose media columns are not decoded by the library.

    Rows without a label are left out where there is a column for it.

    Args:
        rows: the data set.
        columns: our name (`image`, `audio`, `text`, `label`) → column.
    Raises:
        ValueError: a label below 0.
    """

    def __init__(self, rows: Any, columns: Mapping[str, str]) -> None:
        self.rows, self.columns = rows, dict(columns)
        self.captioned = "text" in self.columns
        self.losses = losses = Losses()
        self.kept: Sequence[int] = range(len(rows))
        if "label" in self.columns:
            column = self.columns["label"]
            labels = list(rows[column])
            self.kept = [index for index, label in enumerate(labels) if label is not None]
            self.labels = [int(labels[index]) for index in self.kept]
            for index in sorted({*range(len(rows))} - {*self.kept}):
                losses.add(f"no {column}", f"row {index}")
            if min(self.labels, default=0) < 0:
                wrong = self.kept[self.labels.index(min(self.labels))]
                raise ValueError(
                    f"row {wrong} has {column}={min(self.labels)}, which is no class index: leave "
                    "such rows out of the data set, or choose another split"
                )

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def keys(self) -> list[str]:
        return [str(index) for index in self.kept]

    def read(self, index: int) -> Item:
        row = self.rows[self.kept[index]]
        item: Item = {}
        for name, column in self.columns.items():
            value = row[column]
            if name in ("image", "audio"):
                item[name] = _media(name, value)
            elif name == "label":
                item[name] = int(value)
            else:
                item[name] = _captions(value)
        return item


def _media(name: str, value: Mapping[str, Any] | None) -> Any:
    source = value and (value["bytes"] or (value["path"] and Path(value["path"])))
    if not source:
        raise Unreadable(f"no {name}")
    return read_image(source) if name == "image" else read_audio(source)


def _captions(value: Any) -> list[str]:
    texts = [value] if isinstance(value, str) else value or []
    found = [text.strip() for text in texts if text and text.strip()]
    if not found:
        raise Unreadable("no caption")
    return found


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
        names = {ours: self._split(ours, list(found)) for ours in self.split_names}
        unused = [name for name in found if name not in names.values()]
        if unused:
            log.info("data %s: not used: split %s", self.name, ", split ".join(unused))
        splits: dict[str, Items] = {
            ours: self._rows(found[theirs], theirs) for ours, theirs in names.items() if theirs
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

    def _split(self, ours: str, found: Sequence[str]) -> str | None:
        """Its name there; None where it has none, under no name that is usual."""
        theirs = self.split_names[ours]
        usual = [ours, *ALSO.get(ours, ())]
        if theirs in found:
            return theirs
        if theirs not in usual:
            raise ValueError(
                f"data.path={self.path!r} has the splits {', '.join(found)}: say with "
                f"data.splits.{ours} which one is taken, {theirs} is none of them"
            )
        other = next((name for name in usual if name in found), None)
        if other is not None:
            log.info("data %s: split %s is taken as %s", self.name, other, ours)
        return other

    def _rows(self, rows: Any, split: str) -> Rows:
        try:
            return Rows(self._undecoded(rows), self.columns)
        except ValueError as error:
            raise ValueError(f"data.path={self.path!r}, split {split}: {error}") from error

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
                f"it has no column {' and no column '.join(missing)}; its columns are "
                f"{', '.join(rows.column_names)}"
            )
        for name, column in self.columns.items():
            kind = rows.features[column]
            if not _FITS[name](kind):
                raise ValueError(
                    f"column {column} holds {kind!r}, which is no {name}: set data.{name}_column "
                    "to another column, or cast this one"
                )
            if name in ("image", "audio"):
                rows = rows.cast_column(column, type(kind)(decode=False))
        return rows


def _is_text(kind: Any) -> bool:
    """A text, or a list of texts."""
    return getattr(getattr(kind, "feature", kind), "dtype", None) in ("string", "large_string")


_FITS: dict[str, Callable[[Any], bool]] = {
    "image": lambda kind: type(kind).__name__ == "Image",
    "audio": lambda kind: type(kind).__name__ == "Audio",
    "text": _is_text,
    "label": lambda kind: str(getattr(kind, "dtype", "")).startswith(("int", "uint", "bool")),
}
"""Our name of a column → whether a feature of `datasets` is one."""
