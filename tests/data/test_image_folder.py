"""A folder per class."""

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.data.image_folder import ImageFolder
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.evaluation.zeroshot import ZeroShot
from mmcompress.inputs.files import IMAGE_SUFFIXES
from tests.data.conftest import picture, tone


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


def test_hidden_folders_and_files_are_no_data(root: Path, tiny_backbone: HFClip) -> None:
    for name in (".ipynb_checkpoints", "__MACOSX"):
        for folder in (root, root / "train", root / "test", root / "train" / "n01"):
            (folder / name).mkdir()
            (folder / name / "a.jpg").write_bytes(picture())
    for name in ("._0.jpg", ".DS_Store", "Thumbs.db"):
        (root / "train" / "n01" / name).write_bytes(b"x")
    data = load(root, tiny_backbone)
    assert data.class_names == ["n01", "n02"]
    assert {s: len(i) for s, i in data.splits.items()} == {"test": 2, "train": 9, "val": 1}
    assert data.summary()["train"]["left_out"] == {}


def test_other_suffixes(root: Path, tiny_backbone: HFClip, caplog) -> None:
    """What Pillow opens is read; the rest is named and counted by suffix."""
    kinds = {"tif": "TIFF", "TIFF": "TIFF", "jfif": "JPEG", "webp": "WEBP", "bmp": "BMP"}
    for suffix, kind in (kinds | {"gif": "GIF", "jp2": "JPEG2000", "pnm": "PPM"}).items():
        Image.new("RGB", (40, 36), "red").save(root / "test" / "n01" / f"x.{suffix}", kind)
    for name in ("n01/a.heic", "n01/b.heic", "n02/c.mp4", "n02/LICENSE", "lost.jpg"):
        (root / "test" / name).write_bytes(picture())
    data = load(root, tiny_backbone)
    test = data.splits["test"]
    assert len(test) == 2 + 8
    read = [test[index]["image"] for index, key in enumerate(test.keys) if "/x." in key]
    assert [image.getpixel((5, 5))[0] > 250 for image in read] == [True] * 8
    assert data.summary()["test"]["left_out"] == {
        ".heic, which is not read": 2,
        ".txt, which is not read": 1,
        ".mp4, which is not read": 1,
        "no suffix, which is not read": 1,
        "in no folder of a class": 1,
    }
    assert f"{data.name} test: n01/b.heic left out, .heic, which is not read" in caplog.messages


@pytest.mark.skipif(".avif" not in IMAGE_SUFFIXES, reason="this Pillow has no AVIF")
def test_avif(root: Path, tiny_backbone: HFClip) -> None:
    Image.new("RGB", (40, 36), "red").save(root / "test" / "n02" / "x.avif")
    test = load(root, tiny_backbone).splits["test"]
    assert test[2]["image"].size == (40, 36)


def test_a_class_that_loses_all_its_items(root: Path, tiny_backbone: HFClip, caplog) -> None:
    for path in (root / "train" / "n02").iterdir():
        path.rename(path.with_suffix(".heic"))
    data = load(root, tiny_backbone)
    assert data.summary()["train"] == {"items": 4, "left_out": {".heic, which is not read": 5}}
    assert f"{data.name} train: 1 of 2 classes have no item: n02" in caplog.messages
    for path in (root / "train" / "n01").iterdir():
        path.unlink()
    with pytest.raises(ValueError, match=r"train is empty \(.heic, which is not read \(5\)\)"):
        load(root, tiny_backbone)


def test_links_to_folders(root: Path, tmp_path: Path, tiny_backbone: HFClip) -> None:
    """One that leads back to itself too."""
    far = tmp_path / "far"
    far.mkdir()
    (far / "a.jpg").write_bytes(picture())
    (root / "test" / "n01" / "far").symlink_to(far)
    (root / "test" / "n01" / "round").symlink_to(root / "test" / "n01")
    keys = load(root, tiny_backbone).splits["test"].keys
    assert keys == ["n01/deep/b.JPG", "n01/far/a.jpg", "n02/a.jpg"]


@pytest.mark.parametrize("name", ["valid", "validation", "dev"])
def test_validation_under_another_name(
    name: str, root: Path, tiny_backbone: HFClip, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "test").rename(root / name)
    caplog.set_level("INFO")
    data = load(root, tiny_backbone)
    assert {split: len(items) for split, items in data.splits.items()} == {"train": 10, "val": 2}
    assert f"data {data.name}: split {name} is taken as val" in caplog.messages


def test_sounds_among_images(root: Path, tiny_backbone: HFClip) -> None:
    (root / "test" / "n01" / "a.wav").write_bytes(tone(200))
    data = load(root, tiny_backbone)
    assert data.summary()["test"]["left_out"]["sound among images"] == 1
    assert len(data.splits["test"]) == 2


def test_numbered_folders_with_names(
    image_files: Callable[..., Path], tiny_backbone: HFClip, caplog: pytest.LogCaptureFixture
) -> None:
    root = image_files(*(f"train/{c}/{i}.jpg" for c in (0, 2, 10) for i in range(2)))
    load(root, tiny_backbone)
    assert caplog.messages == []
    load(root, tiny_backbone, class_names=["cat", "dog", "key"])
    assert caplog.messages[0].endswith("belong to the class folders in the order 0, 10, 2")
