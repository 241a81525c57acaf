"""Data sets of torchvision by name."""

from pathlib import Path

import pytest
from PIL import Image
from torchvision import datasets

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.data.torchvision_data import Torchvision
from tests.data.conftest import picture


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
        if split not in ("train", "test"):
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


class Odd(datasets.VisionDataset):
    """As ImageNet names its classes and Country211 its splits; two of the items are damaged."""

    classes = (("tench", "Tinca tinca"), "hot_dog")

    def __init__(self, root: str, split: str = "train") -> None:
        super().__init__(root)
        if split not in ("train", "valid", "test"):
            raise ValueError("Unknown split")
        self.files: list = [Path(root) / f"{i}.jpg" for i in range(4 if split == "valid" else 8)]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, object]:
        label = {2: None, 3: (1, 0)}.get(index, index % 2)
        return Image.open(self.files[index]).convert("RGB"), label


def test_what_torchvision_leaves_to_its_users(
    tmp_path: Path, tiny_backbone: HFClip, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "Odd", Odd, raising=False)
    for index in range(8):
        (tmp_path / f"{index}.jpg").write_bytes(b"no image" if index == 1 else picture())
    (tmp_path / "5.jpg").unlink()
    data = Torchvision(dataset="Odd", root=str(tmp_path), eval_batch_size=2)
    data.attach(tiny_backbone)
    assert {s: len(items) for s, items in data.splits.items()} == {"train": 8, "test": 8, "val": 4}
    assert data.class_names == ["tench", "hot dog"]
    test = data.splits["test"]
    reasons = {index: getattr(test[index], "reason", None) for index in (0, 1, 2, 5)}
    assert reasons == {0: None, 1: "no readable image", 2: "no label", 5: "no such file"}
    with pytest.raises(ValueError, match=r"item 3 has the label \(1, 0\), which is no class index"):
        list(data.eval_dataloader("test"))
    named = Torchvision(dataset="Odd", root=str(tmp_path), class_names=["a_b", "c"])
    named.attach(tiny_backbone)
    assert named.class_names == ["a_b", "c"]
