"""Classification data sets of torchvision, by name."""

import contextlib
import inspect
import operator
from collections.abc import Callable, Sequence
from typing import Any

from torchvision import datasets

from mmcompress.data.base import PairData
from mmcompress.data.items import Item, Items
from mmcompress.data.prompts import names_of, templates_of
from mmcompress.data.splits import ALSO, SHARE, complete
from mmcompress.functional.pictures import with_alpha
from mmcompress.inputs.files import DAMAGE, Unreadable, unreadable


class NoSuchSplit(ValueError):
    """The data set has no split of this name."""


class Labeled(Items):
    """Images with class indices, of a data set that gives both by index."""

    captioned = False

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Item:
        try:
            image, label = self.dataset[index]
            image = with_alpha(image)
        except DAMAGE as error:
            raise unreadable("image", error) from error
        if label is None:
            raise Unreadable("no label")
        try:
            return {"image": image, "label": operator.index(label)}
        except TypeError as error:
            raise ValueError(
                f"{self.title}: item {index} has the label {label!r}, which is no class index: "
                "choose a data set with one class for each image"
            ) from error


class Torchvision(PairData):
    """One data set of `torchvision.datasets`, as a Lightning data module.

    Args:
        dataset: its name there, `CIFAR10`.
        root: the folder of its files.
        download: fetch them when they are missing.
        val_share: of the training images that become `val` where the data set has no such split.
        class_names: those of the data set when None.
        templates: a list, or the name of an ensemble.
        augment: image → image, for training.
        **kwargs: of `PairData`.
    Raises:
        ValueError: no such data set, files that are missing, or one without class names.
    """

    def __init__(
        self,
        *,
        dataset: str,
        root: str,
        download: bool = False,
        val_share: float = SHARE,
        class_names: Sequence[str] | None = None,
        templates: str | Sequence[str] = ("a photo of a {}",),
        augment: Callable[[Any], Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kind: Any = getattr(datasets, dataset, None)
        if not inspect.isclass(self.kind) or not issubclass(self.kind, datasets.VisionDataset):
            raise ValueError(f"data.dataset={dataset!r} is no data set of torchvision.datasets")
        self.name, self.root, self.download = dataset.lower(), root, download
        self.val_share, self.augment = val_share, augment
        self.templates = templates_of(templates)
        self.class_names = names_of(class_names or [])

    def build_splits(self) -> dict[str, Items]:
        parameters = inspect.signature(self.kind).parameters
        download = {"download": self.download} if "download" in parameters else {}
        splits: dict[str, Items] = {}
        if "train" in parameters:
            splits["train"] = self._part(train=True, **download)
            splits["test"] = self._part(train=False, **download)
        else:
            splits["train"] = self._part(split="train", **download)
            for name in ("val", *ALSO["val"]):
                with contextlib.suppress(NoSuchSplit):
                    splits["val"] = self._part(split=name, **download)
                    break
            splits["test"] = self._part(split="test", **download)
        train = splits["train"]
        assert isinstance(train, Labeled)
        if not self.class_names:
            self.class_names = _names(getattr(train.dataset, "classes", ()))
        if not self.class_names:
            raise ValueError(f"data {self.name} brings no class names along: set data.class_names")
        return self.checked(complete(splits, val_share=self.val_share, augment=self.augment))

    def _part(self, **options: Any) -> Labeled:
        try:
            return Labeled(self.kind(self.root, **options))
        except ValueError as error:
            raise NoSuchSplit(f"data {self.name}: {error}") from error
        except RuntimeError as error:
            raise ValueError(
                f"data {self.name}: {error} Set data.root to where its files are, or "
                "data.download=true"
            ) from error


def _names(classes: Sequence[Any]) -> list[str]:
    """Of several names for a class, as ImageNet has them, the first."""
    names = (name if isinstance(name, str) else name[0] for name in classes)
    return [name.replace("_", " ") for name in names]
