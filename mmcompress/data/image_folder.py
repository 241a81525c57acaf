"""Folders of images (or sounds), one folder per class: root/train/cat/….jpg."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmcompress.data.base import PairData
from mmcompress.data.decode import AUDIO_SUFFIXES, IMAGE_SUFFIXES
from mmcompress.data.files import Entry, Files
from mmcompress.data.items import Items
from mmcompress.data.prompts import names_of, read_names, read_templates, templates_of
from mmcompress.data.splits import SHARE, complete


class ImageFolder(PairData):
    """A folder of splits, each a folder of classes, as a Lightning data module.

    Args:
        root: the folder.
        val_share: of `train` that becomes `val` where `root` has no such folder.
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
        if not (self.root / "train").is_dir():
            raise ValueError(f"data.root={root!r} holds no folder train with a folder per class")
        self.name = self.root.resolve().name
        self.folders = _classes(self.root / "train")
        self.class_names = names_of(class_names or read_names(self.root) or self.folders)
        if len(self.class_names) != len(self.folders):
            raise ValueError(
                f"data {self.name}: {len(self.class_names)} class names for the "
                f"{len(self.folders)} class folders in {self.root / 'train'}: make them match"
            )
        self.templates = read_templates(self.root) if templates is None else templates_of(templates)
        self.val_share, self.augment = val_share, augment

    def build_splits(self) -> dict[str, Items]:
        names = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        splits: dict[str, Items] = {name: Files(self._entries(self.root / name)) for name in names}
        return complete(splits, val_share=self.val_share, augment=self.augment)

    def _entries(self, split: Path) -> list[Entry]:
        unknown = sorted(set(_classes(split)) - set(self.folders))
        if unknown:
            raise ValueError(
                f"data {self.name}: {split} has classes that train lacks ({', '.join(unknown[:3])})"
            )
        return [
            Entry(path, path.relative_to(split).as_posix(), label=self.folders.index(folder))
            for folder in _classes(split)
            for path in sorted((split / folder).rglob("*"))
            if path.suffix.lower() in (*IMAGE_SUFFIXES, *AUDIO_SUFFIXES)
        ]


def _classes(split: Path) -> list[str]:
    return sorted(path.name for path in split.iterdir() if path.is_dir())
