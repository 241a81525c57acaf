"""Images and sounds that lie in files of their own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcompress.data.decode import AUDIO_SUFFIXES, Unreadable, read_audio, read_image
from mmcompress.data.items import Item, Items


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

    Args:
        entries: in order.
        augment: image → image, applied at each access.
    """

    def __init__(
        self, entries: Sequence[Entry], *, augment: Callable[[Any], Any] | None = None
    ) -> None:
        self.entries = list(entries)
        self.captioned = any(entry.texts for entry in self.entries)
        self.augment = augment

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def keys(self) -> list[str]:
        return [entry.key for entry in self.entries]

    def read(self, index: int) -> Item:
        entry = self.entries[index]
        sound = entry.path.suffix.lower() in AUDIO_SUFFIXES
        try:
            media = read_audio(entry.path) if sound else read_image(entry.path)
        except Unreadable as error:
            raise error.within(str(entry.path)) from error
        item: Item = {"audio" if sound else "image": media}
        if self.captioned:
            if not entry.texts:
                raise Unreadable(f"{entry.path}: no caption")
            item["text"] = list(entry.texts)
        if entry.label is not None:
            item["label"] = entry.label
        return item
