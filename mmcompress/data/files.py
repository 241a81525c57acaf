"""Images and sounds that lie in files of their own."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcompress.data.decode import read_audio
from mmcompress.data.items import Item, Items
from mmcompress.data.losses import Losses
from mmcompress.inputs.files import AUDIO_SUFFIXES, Unreadable, read_image

_HIDDEN = re.compile(r"\.(?!\.?$).*|__MACOSX|Thumbs\.db|desktop\.ini", re.IGNORECASE)
"""Folders and files that programs leave beside data."""


def is_hidden(path: str) -> bool:
    """Whether it, or a folder on the way to it, is none of the user's.

    Example:
        >>> [is_hidden(path) for path in ("a/._b.png", "__MACOSX/b.png", "./a/../b.png")]
        [True, True, False]
    """
    return any(_HIDDEN.fullmatch(part) for part in path.split("/"))


@dataclass(frozen=True)
class Entry:
    """One file and what is known of it.

    Attributes:
        path: of the image or sound.
        key: its name, the same wherever the data set lies.
        texts: its captions; none when it has a label alone.
        label: its class index; None when it has captions alone.
    """

    path: Path
    key: str
    texts: tuple[str, ...] = ()
    label: int | None = None


class Files(Items):
    """The items of some files, each read when it is asked for.

    Those that have no caption where others have one are left out, and so are the few sounds among
    images, or images among sounds.

    Args:
        entries: in order.
        losses: what was left out before.
        augment: image → image, applied at each access.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        losses: Losses | None = None,
        augment: Callable[[Any], Any] | None = None,
    ) -> None:
        self.losses = losses = losses or Losses()
        self.captioned = any(entry.texts for entry in entries)
        kinds = Counter(_kind(entry) for entry in entries).most_common(1)
        self.entries = []
        for entry in entries:
            if _kind(entry) != kinds[0][0]:
                losses.add(f"{_kind(entry)} among {kinds[0][0]}s", entry.key)
            elif self.captioned and not entry.texts:
                losses.add("no caption", entry.key)
            else:
                self.entries.append(entry)
        labels = [entry.label for entry in self.entries if entry.label is not None]
        self.labels = labels if len(labels) == len(self.entries) > 0 else None
        self.augment = augment

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def keys(self) -> list[str]:
        return [entry.key for entry in self.entries]

    def read(self, index: int) -> Item:
        entry = self.entries[index]
        kind = _kind(entry)
        try:
            media = read_audio(entry.path) if kind == "sound" else read_image(entry.path)
        except Unreadable as error:
            raise error.within(str(entry.path)) from error
        item: Item = {"audio" if kind == "sound" else "image": media}
        if self.captioned:
            item["text"] = list(entry.texts)
        if entry.label is not None:
            item["label"] = entry.label
        return item


def _kind(entry: Entry) -> str:
    return "sound" if entry.path.suffix.lower() in AUDIO_SUFFIXES else "image"
