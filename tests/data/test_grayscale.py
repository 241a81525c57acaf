"""Digits and Fashion-MNIST."""

import gzip
from pathlib import Path

import pytest
import torch
from torchvision import datasets

from mmcompress.backbones.mlp import MLP
from mmcompress.data import grayscale
from mmcompress.data.grayscale import Digits, FashionMNIST


def test_digits_are_split_once_and_for_all() -> None:
    data = Digits(batch_size=64)
    data.attach(MLP())
    sizes = {split: len(items) for split, items in data.splits.items()}
    assert sizes == {"train": 1294, "test": 359, "val": 144}
    drawn = {
        split: {tuple(items.read(n)["image"].flatten().tolist()) for n in range(len(items))}
        for split, items in data.splits.items()
    }
    assert not drawn["test"] & drawn["train"]
    assert not drawn["test"] & drawn["val"]
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (64, 1, 28, 28)
    assert 0.9 < batch["image"].max() <= 1


@pytest.fixture
def idx_root(tmp_path: Path) -> Path:
    """The format of MNIST: two magic bytes, element type, dimensions, then the bytes."""
    for stem, count in (("train", 20), ("t10k", 5)):
        header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        images = bytes(n for n in range(count) for _ in range(784))
        labels = b"\0\0\x08\x01" + count.to_bytes(4, "big") + bytes(n % 10 for n in range(count))
        (tmp_path / f"{stem}-images-idx3-ubyte.gz").write_bytes(gzip.compress(header + images))
        (tmp_path / f"{stem}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return tmp_path


def test_fashion_mnist_from_its_files(idx_root: Path) -> None:
    data = FashionMNIST(root=str(idx_root))
    data.attach(MLP())
    assert {s: len(items) for s, items in data.splits.items()} == {"train": 18, "test": 5, "val": 2}
    item = data.splits["test"].read(3)
    assert item["label"] == 3
    assert torch.equal(item["image"], torch.full((3, 28, 28), 3, dtype=torch.uint8))
    assert data.class_names[0] == "t-shirt or top"


def test_damaged_or_missing_files(idx_root: Path, tmp_path: Path) -> None:
    (idx_root / "t10k-labels-idx1-ubyte.gz").write_bytes(b"no gzip")
    for root in (idx_root, tmp_path / "none"):
        with pytest.raises(ValueError, match=r"does not hold Fashion-MNIST .*: give the folder"):
            FashionMNIST(root=str(root)).attach(MLP())


def test_where_it_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*arguments, **options) -> None:
        raise RuntimeError("Error downloading train-images:\nTried one, got: no network")

    monkeypatch.setattr(grayscale, "DEBIAN", tmp_path / "none")
    monkeypatch.setattr(datasets, "FashionMNIST", refuse)
    with pytest.raises(ValueError, match=r"cannot be fetched \(Error downloading train-images\): "):
        FashionMNIST().attach(MLP())
