"""Data sets of torchvision by name."""

from pathlib import Path

import pytest
from PIL import Image
from torchvision import datasets

from mmcompress.backbones.hf_clip import HFClip
from mmcompress.data.torchvision_data import Torchvision


class ByFlag(datasets.VisionDataset):
    """As CIFAR10 is called."""

    classes = ("red_cat", "blue")

    def __init__(self, root: str, train: bool = True, download: bool = False) -> None:
        super().__init__(root)
        if not download:
            raise RuntimeError("Dataset not found.")
        self.count = 10 if train else 3

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("L", (20, 20)), index % 2


class BySplit(ByFlag):
    """As Food101 is called: no split val."""

    def __init__(self, root: str, split: str = "train") -> None:
        if split == "val":
            raise ValueError("Unknown split")
        super().__init__(root, train=split == "train", download=True)


@pytest.fixture(autouse=True)
def _known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "ByFlag", ByFlag, raising=False)
    monkeypatch.setattr(datasets, "BySplit", BySplit, raising=False)


@pytest.mark.parametrize("name", ["ByFlag", "BySplit"])
def test_splits_of_both_kinds(name: str, tmp_path: Path, tiny_backbone: HFClip) -> None:
    data = Torchvision(dataset=name, root=str(tmp_path), download=True, val_share=0.2)
    data.attach(tiny_backbone)
    assert {s: len(items) for s, items in data.splits.items()} == {"train": 8, "test": 3, "val": 2}
    assert data.class_names == ["red cat", "blue"]
    item = data.splits["test"][1]
    assert item["image"].mode == "RGB"
    assert item["label"] == 1
    assert data.classification("test").templates == ["a photo of a {}"]


def test_missing_files_and_names(tmp_path: Path, tiny_backbone: HFClip) -> None:
    with pytest.raises(ValueError, match=r"not found. Set data.root to where its files are"):
        Torchvision(dataset="ByFlag", root=str(tmp_path)).attach(tiny_backbone)
    with pytest.raises(ValueError, match=r"to where its files are, or data.download=true"):
        Torchvision(dataset="CIFAR10", root=str(tmp_path)).attach(tiny_backbone)
    for name in ("Nothing", "vision", "FakeDat"):
        with pytest.raises(ValueError, match=f"data.dataset='{name}' is no data set of"):
            Torchvision(dataset=name, root=str(tmp_path))
