"""Folders of images (or sounds), one folder per class: root/train/cat/….jpg."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmcompress.data.base import PairData
from mmcompress.data.files import Entry, Files, is_hidden
from mmcompress.data.items import Items
from mmcompress.data.losses import NAMED, Losses
from mmcompress.data.prompts import names_of, read_names, read_templates, templates_of
from mmcompress.data.splits import SHARE, complete, our_names
from mmcompress.inputs.files import AUDIO_SUFFIXES, IMAGE_SUFFIXES

log = logging.getLogger(__name__)


class ImageFolder(PairData):
    """A folder of splits, each a folder of classes, as a Lightning data module.

    Args:
        root: the folder.
        val_share: of `train` that becomes `val` where `root` has no such folder, under this name
            or one of `splits.ALSO`.
        class_names: in the order of the class folders' names; those names themselves, or the lines
            of `classnames.txt`, when None.
        templates: a list, or the name of an ensemble; the file in `root` when None.
        augment: image → image, for training.
        **kwargs: of `PairData`.
    Raises:
        ValueError: no such folder, splits of different classes, or a list of another length.
    """

    def __init__(
        self,
        *,
        root: str,
        val_share: float = SHARE,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        augment: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root)
        self.name = self.root.resolve().name
        found = _folders(self.root) if self.root.is_dir() else []
        self.parts = {
            ours: self.root / theirs for theirs, ours in our_names(found, self.name).items()
        }
        if "train" not in self.parts:
            raise ValueError(f"data.root={root!r} holds no folder train with a folder per class")
        self.folders = _folders(self.parts["train"])
        self.class_names = names_of(class_names or read_names(self.root) or self.folders)
        if len(self.class_names) != len(self.folders):
            raise ValueError(
                f"data {self.name}: {len(self.class_names)} class names for the "
                f"{len(self.folders)} class folders in {self.parts['train']}: make them match"
            )
        numbers = [int(name) for name in self.folders if name.isdecimal()]
        if self.class_names != self.folders and numbers != sorted(numbers):
            log.warning(
                "data %s: class names belong to the class folders in the order %s",
                self.name,
                ", ".join(self.folders[:NAMED]),
            )
        self.templates = read_templates(self.root) if templates is None else templates_of(templates)
        self.val_share, self.augment = val_share, augment

    def build_splits(self) -> dict[str, Items]:
        splits: dict[str, Items] = {name: self._files(path) for name, path in self.parts.items()}
        return self.checked(complete(splits, val_share=self.val_share, augment=self.augment))

    def _files(self, split: Path) -> Files:
        classes = {folder: index for index, folder in enumerate(self.folders)}
        unknown = sorted(set(_folders(split)) - classes.keys())
        if unknown:
            raise ValueError(
                f"data {self.name}: {split} has classes that train lacks ({', '.join(unknown[:3])})"
            )
        entries, losses = [], Losses()
        for path in sorted(_below(split)):
            key, suffix = path.relative_to(split).as_posix(), path.suffix.lower()
            if suffix not in (*IMAGE_SUFFIXES, *AUDIO_SUFFIXES):
                losses.add(f"{suffix or 'no suffix'}, which is not read", key)
            elif "/" not in key:
                losses.add("in no folder of a class", key)
            else:
                entries.append(Entry(path, key, label=classes[key.split("/")[0]]))
        return Files(entries, losses=losses)


def _folders(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not is_hidden(p.name))


def _below(folder: Path, above: frozenset[Path] = frozenset()) -> Iterator[Path]:
    """All files, except hidden ones; links are followed, except back to a folder on the way."""
    real = folder.resolve()
    if real in above:
        return
    with os.scandir(folder) as found:
        for entry in found:
            if is_hidden(entry.name):
                continue
            if entry.is_dir():
                yield from _below(Path(entry.path), above | {real})
            else:
                yield Path(entry.path)
