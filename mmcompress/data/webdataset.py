"""WebDataset shards in the layout of CLIP_benchmark, read in place.

    root/classnames.txt  root/zeroshot_classification_templates.txt
    root/train/0.tar …   root/test/0.tar …

In a shard, files that differ in their suffix alone are one item: an image or a sound, `.txt` with a
caption per line, `.cls` with a class index.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmcompress.data.base import PairData
from mmcompress.data.files import is_hidden
from mmcompress.data.items import Items
from mmcompress.data.prompts import names_of, read_names, read_templates, templates_of
from mmcompress.data.shards import Shards
from mmcompress.data.splits import SHARE, complete, our_names

PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")


class WebDataset(PairData):
    """A folder of shards as a Lightning data module.

    Args:
        root: the folder; its folders with tar files are the splits, and `train` must be one.
        val_share: of `train` that becomes `val` where `root` has no such folder.
        class_names, templates: in place of the files that `root` has; templates may name an
            ensemble, see `mmcompress.data.prompts`.
        captions: false to train on prompts with the class name although items have captions.
        augment: image → image, for training.
        **kwargs: of `PairData`.
    """

    def __init__(
        self,
        *,
        root: str,
        val_share: float = SHARE,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] | None = None,
        captions: bool = True,
        augment: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.root = Path(root)
        if not self.root.is_dir():
            raise ValueError(f"data.root={root!r} is no folder: give one with train/*.tar")
        self.name = self.root.resolve().name
        self.class_names = names_of(class_names or read_names(self.root))
        self.templates = read_templates(self.root) if templates is None else templates_of(templates)
        self.val_share, self.captions, self.augment = val_share, captions, augment

    def build_splits(self) -> dict[str, Items]:
        folders = sorted(f for f in self.root.iterdir() if f.is_dir() and not is_hidden(f.name))
        found = {folder.name: _shards_in(folder) for folder in folders}
        for folder in folders:
            _check_packed(folder)
        names = our_names((name for name, files in found.items() if files), self.name)
        shards = {ours: found[theirs] for theirs, ours in names.items()}
        if "train" not in shards:
            raise ValueError(f"data.root={str(self.root)!r} holds no train/*.tar: put shards there")
        splits: dict[str, Items] = {name: self._shards(files) for name, files in shards.items()}
        return self.checked(complete(splits, val_share=self.val_share, augment=self.augment))

    def _shards(self, files: Sequence[Path]) -> Shards:
        shards = Shards(files, captions=self.captions)
        if not shards.captioned and not self.class_names:
            raise ValueError(
                f"data {self.name}: items have neither captions (.txt) nor class names: add "
                "classnames.txt to the folder, or set data.class_names"
            )
        if not shards.captioned and shards.labels is None:
            raise ValueError(
                f"data {self.name}: items of {files[0].parent} have neither captions (.txt) nor "
                "labels (.cls), and no other file is read for them: write one of the two for each"
            )
        return shards


def _check_packed(folder: Path) -> None:
    """Refuse shards that would not be read, for they are compressed and not there unpacked."""
    for file in sorted(folder.iterdir()):
        suffix = next((suffix for suffix in PACKED if file.name.endswith(suffix)), None)
        plain = file.name.removesuffix(suffix or "") + ".tar"
        if suffix is not None and not is_hidden(file.name) and not (folder / plain).exists():
            raise ValueError(f"{file} is compressed, and shards are read in place: unpack it")


def _shards_in(folder: Path) -> list[Path]:
    return sorted((f for f in folder.glob("*.tar") if not is_hidden(f.name)), key=_shard_number)


def _shard_number(file: Path) -> tuple[int, str]:
    return (int(file.stem) if file.stem.isdecimal() else 0, file.name)
