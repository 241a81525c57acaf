"""What a data set holds: items that are read when they are asked for, and never all at once."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from PIL import Image
from torch.utils.data import Dataset

from mmcompress.config.errors import USER_ERRORS
from mmcompress.data.decode import check_finite
from mmcompress.data.losses import Losses
from mmcompress.functional.pictures import on_white, with_alpha
from mmcompress.inputs.files import Unreadable
from mmcompress.system.seeds import seed_from

Item = dict[str, Any]
"""`image` (PIL, or uint8 (3, H, W)) or `audio` (a `Waveform`), and what there is of `text` (one
caption or a list of several) and `label` (int). Where something is asked there is a `prompt`, as of
`Example`; `text` is then a list of answers, and `image`, which may be missing, one of images; where
questions are of several kinds, `kind` says of which."""


class Items(Dataset, ABC):
    """Index → item.

    Attributes:
        title: what messages call it.
        captioned: whether they have texts of their own; otherwise labels alone.
        labels: class index of each, where that is known before they are read.
        augment: image → image, applied at each access, to transparent ones on white; None for no
            change.
        losses: what is left out, and was said, for data are read many times over; None to count
            anew, and say it, in each pass.
        remedy: what to do when no item can be read.
    """

    title: str = "data"
    captioned: bool = True
    labels: Sequence[int] | None = None
    losses: Losses | None = None
    augment: Callable[[Any], Any] | None = None
    remedy: str = "repair or replace the files"

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    def keys(self) -> list[str]:
        """Names of the items, in order: the same wherever the data set lies."""
        return [str(index) for index in range(len(self))]

    @abstractmethod
    def read(self, index: int) -> Item:
        """One item, as it is stored.

        Raises:
            Unreadable: its file is damaged.
        """

    def place(self, index: int) -> int:
        """The item's index in the data set that these are a part of."""
        return index

    def __getitem__(self, index: int) -> Item | Unreadable:
        """One item, augmented; where it cannot be read, the reason."""
        try:
            item = _checked(self.read(index))
        except Unreadable as error:
            return error.of(f"item {self.place(index)}")
        if self.augment is not None and "image" in item:
            image = item["image"]
            if isinstance(image, Image.Image) and image.mode == "RGBA":
                image = on_white(image)
            item = item | {"image": self.augment(image)}
        return item

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """What a loader asks for: the items of one batch, or the error that ends the run.

        A worker process would raise it with a traceback in its message.
        """
        try:
            return [self[index] for index in indices]
        except USER_ERRORS as error:
            return [error]

    def none_readable(self, first: str) -> ValueError:
        """What to raise where nothing can be read; `first` is what is wrong with the first item."""
        slashes = "; write / in paths where they have \\" if "\\" in first else ""
        return ValueError(
            f"{self.title}: none of the {len(self)} items can be read, the first is {first}: "
            f"{self.remedy}{slashes}"
        )

    def plain(self) -> Self:
        """The same items without augmentation."""
        items = copy.copy(self)
        items.augment = None
        return items


def _checked(item: Item) -> Item:
    """The item.

    Raises:
        Unreadable: a sound or picture of values that are no numbers, or a text without a word.
    """
    sound, image, texts = item.get("audio"), item.get("image"), item.get("text")
    if sound is not None:
        check_finite(sound)
    if torch.is_tensor(image) and not image.isfinite().all():
        raise Unreadable("no readable image (some of its values are NaN or infinite)")
    if texts is not None and not any(
        text.strip() for text in ([texts] if isinstance(texts, str) else texts)
    ):
        raise Unreadable("no caption")
    return item


class PairDataset(Items):
    """Images in memory with one caption each.

    Args:
        images: PIL images, or tensors (3, H, W) as `to_rgb` takes them.
        captions: as many strings.
        labels: as many class indices, where there are classes.
        augment: image → image, applied at each access.
    """

    def __init__(
        self,
        *,
        images: Sequence[Any],
        captions: Sequence[str],
        labels: Sequence[int] | None = None,
        augment: Callable[[Any], Any] | None = None,
    ) -> None:
        if len(images) != len(captions):
            raise ValueError(f"{len(images)} images but {len(captions)} captions: pair them up")
        self.images = images
        self.captions = captions
        self.labels = labels
        self.augment = augment

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Item:
        image = self.images[index]
        if isinstance(image, Image.Image):
            try:
                image = with_alpha(image)
            except ValueError as error:
                raise Unreadable(f"no readable image ({error})") from error
        item: Item = {"image": image, "text": self.captions[index]}
        return item if self.labels is None else item | {"label": self.labels[index]}


class Part(Items):
    """Items of another data set: named and counted with it."""

    def __init__(self, items: Items) -> None:
        self.items = items
        self.title, self.captioned, self.losses = items.title, items.captioned, items.losses
        self.remedy = items.remedy


class Sample(Part):
    """Some items of another data set, in an order of their own."""

    def __init__(self, items: Items, indices: Sequence[int]) -> None:
        super().__init__(items)
        self.indices = indices
        self.augment = items.augment
        if items.labels is not None:
            self.labels = [items.labels[index] for index in indices]

    def __len__(self) -> int:
        return len(self.indices)

    def place(self, index: int) -> int:
        return self.items.place(self.indices[index])

    def read(self, index: int) -> Item:
        return self.items.read(self.indices[index])


class Repeatable(Part):
    """Training items whose random numbers depend on the seed and on the batch they are read for.

    So a run that goes on from a checkpoint draws what it would have drawn, in worker processes too.
    Each epoch has another order, hence other batches, and draws anew.
    """

    def __init__(self, items: Items, seed: int) -> None:
        super().__init__(items)
        self.seed = seed

    def __len__(self) -> int:
        return len(self.items)

    @property
    def keys(self) -> list[str]:
        return self.items.keys

    def place(self, index: int) -> int:
        return self.items.place(index)

    def read(self, index: int) -> Item:
        return self.items.read(index)

    def __getitems__(self, indices: list[int]) -> list[Any]:
        """`collate` draws from what follows."""
        seed_from(self.seed, indices)
        return self.items.__getitems__(indices)
