"""Classification data sets of torchvision, by name."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torchvision import datasets

from mmcompress.data.base import PairData
from mmcompress.data.decode import Unreadable
from mmcompress.data.items import Item, Items
from mmcompress.data.prompts import names_of, templates_of
from mmcompress.data.splits import SHARE, complete
from mmcompress.rgb import with_alpha


class Labelled(Items):
    """Images with class indices, of a data set that gives both by index."""

    captioned = False

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def read(self, index: int) -> Item:
        image, label = self.dataset[index]
        try:
            return {"image": with_alpha(image), "label": int(label)}
        except ValueError as error:
            raise Unreadable(f"no readable image ({error})") from error


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
        if "train" in parameters:
            options: dict[str, dict[str, Any]] = {
                "train": {"train": True},
                "test": {"train": False},
            }
        else:
            options = {split: {"split": split} for split in ("train", "val", "test")}
        download = {"download": self.download} if "download" in parameters else {}
        splits: dict[str, Items] = {}
        for split, choice in options.items():
            try:
                splits[split] = Labelled(self.kind(self.root, **choice, **download))
            except ValueError:  # it has no such split
                if split != "val":
                    raise
            except RuntimeError as error:
                raise ValueError(
                    f"data {self.name}: {error} Set data.root to where its files are, or "
                    "data.download=true"
                ) from error
        train = splits["train"]
        assert isinstance(train, Labelled)
        names = self.class_names or getattr(train.dataset, "classes", None)
        if not names:
            raise ValueError(f"data {self.name} brings no class names along: set data.class_names")
        self.class_names = [str(name).replace("_", " ") for name in names]
        return self.checked(complete(splits, val_share=self.val_share, augment=self.augment))
