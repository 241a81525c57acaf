"""What a data set holds: items that are read when they are asked for, and never all at once."""

import copy
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image
from torch.utils.data import Dataset
from typing_extensions import Self

from mmcompress.data.decode import Unreadable
from mmcompress.rgb import to_rgb
from mmcompress.seeds import seed_from

log = logging.getLogger(__name__)

Item = dict[str, Any]
"""`image` (PIL, or uint8 (3, H, W)) or `audio` (a `Waveform`), and what there is of `text` (one
caption or a list of several) and `label` (int)."""


class Items(Dataset, ABC):
    """Index → item.

    Attributes:
        title: what messages call it.
        captioned: whether they have texts of their own; otherwise labels alone.
        augment: image → image, applied at each access; None for no change.
        told: what was logged of damaged items and is not said again, for data are read many times
            over; None to say it each time.
    """

    title: str = "data"
    captioned: bool = True
    told: set[str] | None = None
    augment: Callable[[Any], Any] | None = None

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

    def __getitem__(self, index: int) -> Item | Unreadable:
        """One item, augmented; where it cannot be read, the reason."""
        try:
            item = self.read(index)
        except Unreadable as error:
            return Unreadable(f"item {index} left out, {error}")
        if self.augment is not None and "image" in item:
            item = item | {"image": self.augment(item["image"])}
        return item

    def warn(self, message: str) -> None:
        """Log a line, unless it was `told`."""
        line = f"{self.title}: {message}"
        if self.told is None or line not in self.told:
            log.warning("%s", line)
        if self.told is not None:
            self.told.add(line)

    def plain(self) -> Self:
        """The same items without augmentation."""
        items = copy.copy(self)
        items.augment = None
        return items


class PairDataset(Items):
    """Images in memory with one caption each.

    Args:
        images: PIL images, which become RGB; tensors (3, H, W) as `to_rgb` takes them.
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
                image = to_rgb(image)
            except ValueError as error:
                raise Unreadable(f"no readable image ({error})") from error
        item: Item = {"image": image, "text": self.captions[index]}
        return item if self.labels is None else item | {"label": self.labels[index]}


class Sample(Items):
    """Some items of another data set, in an order of their own."""

    def __init__(self, items: Items, indices: Sequence[int]) -> None:
        self.items, self.indices = items, indices
        self.title, self.captioned, self.told = items.title, items.captioned, items.told
        self.augment = items.augment

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> Item:
        return self.items.read(self.indices[index])


class Repeatable(Items):
    """Training items whose random numbers depend on the seed and on the batch they are read for.

    So a run that goes on from a checkpoint draws what it would have drawn, in worker processes too.
    Each epoch has another order, hence other batches, and draws anew.
    """

    def __init__(self, items: Items, seed: int) -> None:
        self.items, self.seed = items, seed
        self.title, self.captioned, self.told = items.title, items.captioned, items.told

    def __len__(self) -> int:
        return len(self.items)

    @property
    def keys(self) -> list[str]:
        return self.items.keys

    def read(self, index: int) -> Item:
        return self.items.read(index)

    def __getitems__(self, indices: list[int]) -> list[Item | Unreadable]:
        """What a loader asks for: the items of one batch; `collate` draws from what follows."""
        seed_from(self.seed, indices)
        return [self.items[index] for index in indices]
