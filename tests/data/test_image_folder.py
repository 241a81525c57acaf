"""A folder per class."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmcompress.backbones.hf_clip import HFClip
from mmcompress.data.image_folder import ImageFolder
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.zeroshot import ZeroShot


@pytest.fixture
def root(image_files: Callable[..., Path]) -> Path:
    names = [f"train/{c}/{i}.jpg" for c in ("n01", "n02") for i in range(5)]
    return image_files(*names, "test/n02/a.jpg", "test/n01/deep/b.JPG", "test/n01/note.txt")


def load(root: Path, backbone: HFClip, **options) -> ImageFolder:
    data = ImageFolder(root=str(root), batch_size=2, eval_batch_size=2, **options)
    data.attach(backbone)
    return data


def test_labels_follow_the_folders(root: Path, tiny_backbone: HFClip) -> None:
    data = load(root, tiny_backbone, class_names=["red", "blue"], templates=["a {} cat"])
    assert {s: len(i) for s, i in data.splits.items()} == {"test": 2, "train": 9, "val": 1}
    assert [data.splits["test"][i]["label"] for i in range(2)] == [0, 1]
    metrics = evaluate(tiny_backbone, data, {"zeroshot": ZeroShot()}, "test")
    assert set(metrics) == {"zeroshot/acc@1", "zeroshot/balanced_acc@1"}


def test_names_come_from_the_folders_or_a_file(root: Path, tiny_backbone: HFClip) -> None:
    assert load(root, tiny_backbone).class_names == ["n01", "n02"]
    (root / "classnames.txt").write_text("red\nblue\n")
    assert load(root, tiny_backbone).class_names == ["red", "blue"]


def test_bad_folders(root: Path, tmp_path: Path, tiny_backbone: HFClip) -> None:
    with pytest.raises(ValueError, match="holds no folder train"):
        load(tmp_path / "nowhere", tiny_backbone)
    with pytest.raises(ValueError, match="3 class names for the 2 class folders"):
        load(root, tiny_backbone, class_names=["a", "b", "c"])
    (root / "test" / "n03").mkdir()
    with pytest.raises(ValueError, match=r"test has classes that train lacks \(n03\)"):
        load(root, tiny_backbone)
    (root / "test" / "n03").rmdir()
    (root / "extra" / "n01").mkdir(parents=True)
    with pytest.raises(ValueError, match="split extra is empty"):
        load(root, tiny_backbone)
