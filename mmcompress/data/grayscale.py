"""Small gray images with ten classes: scikit-learn's digits, and Fashion-MNIST."""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision import datasets

from mmcompress.data.base import PairData
from mmcompress.data.items import Item, Items, Sample
from mmcompress.data.splits import SHARE, complete, hold_out

SIZE = 28
TEST_SHARE = 0.2
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` lies."""


class Pictures(Items):
    """Gray images in memory.

    Args:
        images: (N, H, W) uint8.
        labels: (N,) class indices.
    """

    captioned = False
    labels: Sequence[int]

    def __init__(self, images: Tensor, labels: Sequence[int]) -> None:
        self.images, self.labels = images, list(labels)

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Item:
        return {"image": self.images[index].expand(3, -1, -1), "label": self.labels[index]}


class Digits(PairData):
    """The 1,797 handwritten digits of scikit-learn, enlarged from 8 x 8 to 28 x 28 pixels.

    `test` is a fifth of them, by the hash of their index.

    Args:
        val_share: of the rest that becomes `val`.
        **kwargs: of `PairData`.
    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """

    name = "digits"
    class_names = tuple(str(digit) for digit in range(10))
    templates = ("a handwritten {}",)

    def __init__(self, *, val_share: float = SHARE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.val_share = val_share

    def build_splits(self) -> dict[str, Items]:
        try:
            from sklearn.datasets import load_digits
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                'data=digits needs scikit-learn: pip install "mmcompress[probe]"'
            ) from error
        small, labels = load_digits(return_X_y=True)
        levels = torch.from_numpy(small).float().view(-1, 1, 8, 8) / 16  # N 1 8 8
        large = F.interpolate(levels, size=(SIZE, SIZE), mode="bilinear")[:, 0]
        everything = Pictures((255 * large).round().byte(), labels.tolist())
        kept, held = hold_out(everything.keys, TEST_SHARE)
        splits: dict[str, Items] = {
            "train": Sample(everything, kept),
            "test": Sample(everything, held),
        }
        return self.checked(complete(splits, val_share=self.val_share))


class FashionMNIST(PairData):
    """Fashion-MNIST (Xiao et al. 2017, arXiv:1708.07747): 60,000 and 10,000 images.

    Args:
        root: folder of its four `…-ubyte.gz` files; the one of Debian's package
            `dataset-fashion-mnist` when None, and where that is not installed torchvision fetches
            them into the user cache directory.
        val_share: of `train` that becomes `val`.
        **kwargs: of `PairData`.
    Raises:
        ValueError: the files are not there and cannot be fetched.
    """

    name = "fashion_mnist"
    class_names = tuple(n.lower().replace("/", " or ") for n in datasets.FashionMNIST.classes)
    templates = ("a photo of a {}",)

    def __init__(self, *, root: str | None = None, val_share: float = SHARE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.root = Path(root) if root is not None else DEBIAN if DEBIAN.is_dir() else None
        self.val_share = val_share

    def build_splits(self) -> dict[str, Items]:
        names = {"train": "train", "test": "t10k"}
        splits: dict[str, Items] = {
            split: self._fetched(split == "train") if self.root is None else self._read(stem)
            for split, stem in names.items()
        }
        return self.checked(complete(splits, val_share=self.val_share))

    def _read(self, stem: str) -> Pictures:
        assert self.root is not None
        try:
            parts = [
                gzip.decompress((self.root / f"{stem}-{kind}-ubyte.gz").read_bytes())
                for kind in ("images-idx3", "labels-idx1")
            ]
            labels = np.frombuffer(parts[1], np.uint8, offset=8)
            images = np.frombuffer(parts[0], np.uint8, offset=16).reshape(len(labels), SIZE, SIZE)
        except (OSError, EOFError, ValueError) as error:
            raise ValueError(
                f"data.root={str(self.root)!r} does not hold Fashion-MNIST ({error}): give the "
                "folder of its four .gz files"
            ) from error
        return Pictures(torch.from_numpy(images.copy()), labels.tolist())

    def _fetched(self, train: bool) -> Pictures:
        cache = platformdirs.user_cache_path("mmcompress")
        try:
            dataset = datasets.FashionMNIST(str(cache), train=train, download=True)
        except (OSError, RuntimeError) as error:
            reason = str(error).splitlines()[0].rstrip(":")
            raise ValueError(
                f"Fashion-MNIST cannot be fetched ({reason}): install Debian's package "
                "dataset-fashion-mnist, or set data.root to the folder of its four .gz files"
            ) from error
        return Pictures(dataset.data, dataset.targets.tolist())
