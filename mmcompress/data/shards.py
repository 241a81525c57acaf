"""The items of tar files, read in place: only where their files lie is held in memory."""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich import get_console
from rich.progress import track

from mmcompress.data.decode import read_audio
from mmcompress.data.files import is_hidden
from mmcompress.data.items import Item, Items
from mmcompress.data.losses import Losses
from mmcompress.data.tar import members
from mmcompress.data.text import check_characters, decoded
from mmcompress.inputs.files import AUDIO_SUFFIXES, IMAGE_SUFFIXES, Unreadable, read_image

CAPTION, LABEL = ".txt", ".cls"
KIND = dict.fromkeys(IMAGE_SUFFIXES, "image") | dict.fromkeys(AUDIO_SUFFIXES, "audio")
"""Suffix → what it is the suffix of."""
KNOWN = {*KIND, CAPTION, LABEL}

_FIRST = (".webp", ".png", ".jpg", ".jpeg")
"""Which of several images of an item CLIP_benchmark takes."""

Place = tuple[int, int]
"""Offset and size in the shard, in bytes."""


@dataclass
class Entry:
    """One item of a shard.

    Attributes:
        shard: the tar file.
        key: common stem of its files.
        places: suffix → where the file lies.
        unread: suffixes of files that nothing here reads.
        label: its class index.
    """

    shard: Path
    key: str
    places: dict[str, Place] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    label: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"{self.shard.name}/{self.key}"

    @property
    def kinds(self) -> frozenset[str]:
        """Of its media: `image`, `audio`."""
        return frozenset(KIND[suffix] for suffix in self.places if suffix in KIND)


class Shards(Items):
    """The items of some tar files.

    Args:
        shards: paths.
        captions: false to read labels alone.
        augment: image → image, applied at each access.
    Raises:
        ValueError: a file is no plain tar file, holds nothing to read, or has a label that is none.
    """

    def __init__(
        self,
        shards: Sequence[Path],
        *,
        captions: bool = True,
        augment: Callable[[Any], Any] | None = None,
    ) -> None:
        bar = track(
            shards,
            description="index shards",
            transient=True,
            disable=not get_console().is_terminal,
        )
        losses = Losses()
        found = [entry for shard in bar for entry in index_shard(shard, losses)]
        self.captioned = captions and any(CAPTION in entry.places for entry in found)
        labeled = any(LABEL in entry.places for entry in found)
        self.media = Counter(entry.kinds for entry in found).most_common(1)[0][0]
        needed = [CAPTION] * self.captioned + [LABEL] * labeled
        self.entries = [entry for entry in found if self._complete(entry, needed, losses)]
        labels = [entry.label for entry in self.entries if entry.label is not None]
        self.labels = labels if labeled else None
        self.losses, self.augment = losses, augment

    def _complete(self, entry: Entry, needed: Sequence[str], losses: Losses) -> bool:
        lacking = [f"no {suffix} file" for suffix in needed if suffix not in entry.places]
        lacking += [f"no {kind}, which others have" for kind in sorted(self.media - entry.kinds)]
        if lacking:
            losses.add(lacking[0], entry.name, f"item left out, {entry.name}: {lacking[0]}")
        for kind in sorted(entry.kinds - self.media):
            losses.add(f"{kind} of an item, which others lack", entry.name)
        return not lacking

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def keys(self) -> list[str]:
        return [entry.key for entry in self.entries]

    def read(self, index: int) -> Item:
        entry = self.entries[index]
        item: Item = {} if entry.label is None else {"label": entry.label}
        with entry.shard.open("rb") as file:
            for suffix, (offset, size) in entry.places.items():
                if suffix == LABEL or KIND.get(suffix, "") not in {"", *self.media}:
                    continue
                file.seek(offset)
                try:
                    self._add(item, suffix, file.read(size), f"{entry.key}{suffix}")
                except Unreadable as error:
                    raise error.within(f"{entry.name}{suffix}") from error
        return item

    def _add(self, item: Item, suffix: str, data: bytes, name: str) -> None:
        if suffix in IMAGE_SUFFIXES:
            item["image"] = read_image(data)
        elif suffix in AUDIO_SUFFIXES:
            item["audio"] = read_audio(data)
        elif self.captioned:
            item["text"] = _captions(data, name)


def index_shard(shard: Path, losses: Losses) -> list[Entry]:
    """Where in a tar file the parts of its items lie; the order is that of the file.

    As in webdataset a key ends at the first dot of a name, and the rest is a suffix. Where that
    gives no item, for the key itself has a dot (`img.v2.png`, `img.v2.txt`), it ends at the last.

    Args:
        losses: what is left out is added to it.
    Raises:
        ValueError: it is no plain tar file, no item in it has an image or a sound, or a label is
            no class index.
    """
    plain: dict[str, Entry] = {}
    dotted: dict[str, tuple[str, Entry]] = {}
    order: list[Entry] = []
    others: list[tuple[str, str, str]] = []

    def entry_of(key: str, suffix: str) -> Entry:
        entry = plain.get(key)
        if entry is None or suffix in entry.places:  # a key that comes again is another item
            plain[key] = entry = Entry(shard, key)
            order.append(entry)
        return entry

    for name, place in members(shard, losses):
        folder, base = posixpath.split(name)
        if is_hidden(name):
            continue
        stem, _, rest = base.partition(".")
        key, suffix = posixpath.join(folder, stem), f".{rest.lower()}" if rest else ""
        last = posixpath.splitext(suffix)[1]
        if suffix in KNOWN:
            entry_of(key, suffix).places[suffix] = place
        elif last in KNOWN and last != suffix:
            longer = name[: -len(last)]
            if longer not in dotted:
                dotted[longer] = key, Entry(shard, longer)
                order.append(dotted[longer][1])
            dotted[longer][1].places[last] = place
        else:
            others.append((key, name[: len(name) - len(last)], suffix))
    for key, longer, suffix in others:
        entry = dotted[longer][1] if longer in dotted else entry_of(key, suffix)
        entry.unread.add(suffix or "a name without suffix")
    _settle(plain, dotted)
    return _found(shard, order, losses)


def _settle(plain: dict[str, Entry], dotted: dict[str, tuple[str, Entry]]) -> None:
    """Say of files such as `a.seg.png` whether they are a part of item `a` or item `a.seg`."""
    for key, entry in dotted.values():
        owner = plain.get(key)
        told = CAPTION in entry.places or LABEL in entry.places
        if owner is not None and owner.kinds and not (entry.kinds and told):
            extra = entry.key[len(key) :]
            owner.unread |= {f"{extra}{suffix}" for suffix in entry.places}
            entry.places.clear()


def _found(shard: Path, order: Sequence[Entry], losses: Losses) -> list[Entry]:
    """Those with an image or a sound, and one of each."""
    found = []
    for entry in order:
        for suffix in sorted(entry.unread) if entry.kinds else ():
            if posixpath.splitext(suffix)[1] in KNOWN:
                losses.add(f"a further part of an item ({suffix})", f"{entry.name}{suffix}")
        if entry.kinds:
            _keep_one_of_each(entry, losses)
            found.append(entry)
        elif entry.places or entry.unread:
            suffixes = ", ".join(sorted({*entry.places, *entry.unread}))
            losses.add(f"no image or sound, only {suffixes}", entry.name)
    if not found:
        raise ValueError(
            f"{shard} holds no image and no sound: its files must end in one of "
            f"{', '.join(sorted(KIND))}"
        )
    with shard.open("rb") as file:
        for entry in found:
            if LABEL in entry.places:
                offset, size = entry.places[LABEL]
                file.seek(offset)
                entry.label = _label(file.read(min(size, 64)), f"{shard}/{entry.key}{LABEL}")
    return found


def _keep_one_of_each(entry: Entry, losses: Losses) -> None:
    for kind in entry.kinds:
        suffixes = [suffix for suffix in entry.places if KIND.get(suffix) == kind]
        kept = next((suffix for suffix in _FIRST if suffix in suffixes), suffixes[0])
        for suffix in suffixes:
            if suffix != kept:
                del entry.places[suffix]
                losses.add(f"a second {kind} of an item", f"{entry.name}{suffix}")


def _captions(data: bytes, name: str) -> list[str]:
    try:
        text = decoded(data, name)
        check_characters(text, name)
    except ValueError as error:
        raise Unreadable(f"no readable caption ({error})") from error
    captions = [line.strip() for line in text.splitlines()]
    if not any(captions):
        raise Unreadable("no caption")
    return [caption for caption in captions if caption]


def _label(data: bytes, name: str) -> int:
    if not re.fullmatch(rb"(\xef\xbb\xbf)?\s*\d+\s*", data):
        raise ValueError(
            f"{name} holds {data[:20]!r}, which is no class index: write the number of a line of "
            "classnames.txt, the first is 0"
        )
    return int(data.removeprefix(b"\xef\xbb\xbf"))
