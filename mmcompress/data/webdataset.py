"""WebDataset shards in the layout of CLIP_benchmark, read in place.

    root/classnames.txt  root/zeroshot_classification_templates.txt
    root/train/0.tar …   root/test/0.tar …

In a shard, files that differ in their suffix alone are one item: an image or a sound, `.txt` with a
caption per line, `.cls` with a class index. Only the places of files are held in memory.
"""

import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import get_console
from rich.progress import track

from mmcompress.data.base import PairData
from mmcompress.data.decode import (
    AUDIO_SUFFIXES,
    IMAGE_SUFFIXES,
    Unreadable,
    read_audio,
    read_image,
)
from mmcompress.data.items import Item, Items
from mmcompress.data.prompts import names_of, read_names, read_templates, templates_of
from mmcompress.data.splits import SHARE, complete

CAPTION, LABEL = ".txt", ".cls"


@dataclass
class Entry:
    """One item of a shard.

    Attributes:
        shard: the tar file.
        key: common stem of its files.
        places: suffix → offset and size in the shard, in bytes.
    """

    shard: Path
    key: str
    places: dict[str, tuple[int, int]] = field(default_factory=dict)


class Shards(Items):
    """The items of some tar files.

    Args:
        shards: paths.
        augment: image → image, applied at each access.
    Raises:
        ValueError: a file is no plain tar file, or holds nothing to read.
    """

    def __init__(
        self, shards: Sequence[Path], *, augment: Callable[[Any], Any] | None = None
    ) -> None:
        bar = track(
            shards,
            description="index shards",
            transient=True,
            disable=not get_console().is_terminal,
        )
        self.entries = [entry for shard in bar for entry in index_shard(shard)]
        self.captioned = any(CAPTION in entry.places for entry in self.entries)
        self.labelled = any(LABEL in entry.places for entry in self.entries)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def keys(self) -> list[str]:
        return [entry.key for entry in self.entries]

    def read(self, index: int) -> Item:
        entry = self.entries[index]
        for suffix, needed in ((CAPTION, self.captioned), (LABEL, self.labelled)):
            if needed and suffix not in entry.places:
                raise Unreadable(f"{entry.shard.name}/{entry.key}: no {suffix} file")
        item: Item = {}
        with entry.shard.open("rb") as file:
            for suffix, (offset, size) in entry.places.items():
                file.seek(offset)
                try:
                    self._add(item, suffix, file.read(size))
                except Unreadable as error:
                    raise error.within(f"{entry.shard.name}/{entry.key}{suffix}") from error
        return item

    def _add(self, item: Item, suffix: str, data: bytes) -> None:
        if suffix in IMAGE_SUFFIXES:
            item["image"] = read_image(data)
        elif suffix in AUDIO_SUFFIXES:
            item["audio"] = read_audio(data)
        elif suffix == LABEL:
            item["label"] = _label(data)
        elif suffix == CAPTION and self.captioned:
            lines = [line.strip() for line in data.decode("utf-8", "replace").splitlines()]
            captions = [line for line in lines if line]
            if not captions:
                raise Unreadable("no caption")
            item["text"] = captions


def index_shard(shard: Path) -> list[Entry]:
    """Where in a tar file the parts of its items lie; the order is that of the file.

    Raises:
        ValueError: it is no plain tar file, or no item in it has an image or a sound.
    """
    entries: dict[str, Entry] = {}
    known = {*IMAGE_SUFFIXES, *AUDIO_SUFFIXES, CAPTION, LABEL}
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                folder, _, name = member.name.rpartition("/")
                stem, dot, suffix = name.partition(".")
                suffix = (dot + suffix).lower()
                if not member.isfile() or suffix not in known:
                    continue
                key = f"{folder}/{stem}" if folder else stem
                entry = entries.setdefault(key, Entry(shard, key))
                entry.places[suffix] = (member.offset_data, member.size)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"{shard} is no plain tar file ({error}): unpack or repair it") from error
    media = {*IMAGE_SUFFIXES, *AUDIO_SUFFIXES}
    found = [entry for entry in entries.values() if media & entry.places.keys()]
    if not found:
        raise ValueError(
            f"{shard} holds no image and no sound: its files must end in one of "
            f"{', '.join(sorted(media))}"
        )
    return found


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
        folders = {f.name: sorted(f.glob("*.tar"), key=_shard_number) for f in self.root.iterdir()}
        shards = {name: files for name, files in sorted(folders.items()) if files}
        if "train" not in shards:
            raise ValueError(f"data.root={str(self.root)!r} holds no train/*.tar: put shards there")
        splits: dict[str, Items] = {name: self._shards(files) for name, files in shards.items()}
        return complete(splits, val_share=self.val_share, augment=self.augment)

    def _shards(self, files: Sequence[Path]) -> Shards:
        shards = Shards(files)
        shards.captioned = shards.captioned and self.captions
        if not shards.captioned and not self.class_names:
            raise ValueError(
                f"data {self.name}: items have neither captions (.txt) nor class names: add "
                "classnames.txt to the folder, or set data.class_names"
            )
        return shards


def _shard_number(file: Path) -> tuple[int, str]:
    return (int(file.stem) if file.stem.isdecimal() else 0, file.name)


def _label(data: bytes) -> int:
    try:
        return int(data)
    except ValueError as error:
        raise Unreadable(f"{data[:20]!r} is no class index") from error
