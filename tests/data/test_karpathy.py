"""COCO and Flickr30k in Karpathy's form."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.data.karpathy import Karpathy


def image(name: str, split: str, **rest: Any) -> dict[str, Any]:
    sentences = [{"raw": f"red {animal} ", "tokens": []} for animal in ("cat", "dog")]
    return {"filename": name, "split": split, "sentences": sentences} | rest


def write(folder: Path, images: list[dict[str, Any]]) -> str:
    file = folder / "dataset_coco.json"
    file.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return str(file)


def test_splits_and_captions(
    image_files: Callable[..., Path], tmp_path: Path, tiny_backbone: HFClip
) -> None:
    root = image_files("val2014/a.jpg", "val2014/b.jpg", "train2014/c.jpg", "val2014/d.jpg")
    images = [
        image("a.jpg", "test", filepath="val2014"),
        image("b.jpg", "restval", filepath="val2014"),
        image("c.jpg", "train", filepath="train2014"),
        image("d.jpg", "val", filepath="val2014"),
    ]
    data = Karpathy(annotations=write(tmp_path, images), root=str(root))
    data.attach(tiny_backbone)
    assert data.name == "coco"
    assert {s: len(items) for s, items in data.splits.items()} == {"train": 2, "val": 1, "test": 1}
    assert data.splits["test"][0]["text"] == ["red cat", "red dog"]
    (batch,) = data.eval_dataloader("val")
    assert batch["owner"].tolist() == [0, 0]


def test_flickr_has_no_folders(
    image_files: Callable[..., Path], tmp_path: Path, tiny_backbone: HFClip
) -> None:
    root = image_files("1.jpg", "2.jpg", "3.jpg")
    images = [image("1.jpg", "train"), image("2.jpg", "val"), image("3.jpg", "test")]
    data = Karpathy(annotations=write(tmp_path, images), root=str(root))
    data.attach(tiny_backbone)
    assert "image" in data.splits["train"][0]


def test_bad_annotations(tmp_path: Path, tiny_backbone: HFClip) -> None:
    def attach(file: str) -> None:
        Karpathy(annotations=file, root=str(tmp_path)).attach(tiny_backbone)

    with pytest.raises(ValueError, match=r"nowhere.json' cannot be read .* give dataset_coco.json"):
        attach(str(tmp_path / "nowhere.json"))
    (tmp_path / "captions.json").write_text('{"annotations": []}')
    with pytest.raises(ValueError, match=r"captions.json' cannot be read"):
        attach(str(tmp_path / "captions.json"))
    with pytest.raises(ValueError, match="an image lacks 'sentences'"):
        attach(write(tmp_path, [{"filename": "a.jpg", "split": "train"}]))
    with pytest.raises(ValueError, match=r"an image is amiss \(has split 'dev'\)"):
        attach(write(tmp_path, [image("a.jpg", "dev")]))
    with pytest.raises(ValueError, match=r"an image is amiss .*holds the character '.ud83d'"):
        attach(write(tmp_path, [image("a.jpg", "val", sentences=[{"raw": "a \ud83d"}])]))
    (tmp_path / "captions.json").write_bytes('{"images": ["café"]}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"captions.json is no UTF-8 text .* iconv -f LATIN1"):
        attach(str(tmp_path / "captions.json"))
    with pytest.raises(ValueError, match="split val is empty"):
        attach(write(tmp_path, [image("a.jpg", "train")]))


def test_empty_captions_are_counted(
    image_files: Callable[..., Path], tmp_path: Path, tiny_backbone: HFClip
) -> None:
    root = image_files("1.jpg", "2.jpg", "3.jpg", "4.jpg")
    images = [image(f"{n}.jpg", "train") for n in (1, 2, 3)] + [image("4.jpg", "val")]
    images[1]["sentences"] = [{"raw": " "}, {"raw": "red key"}]
    images[2]["sentences"] = [{"raw": ""}]
    images.append(image("1.jpg", "test"))
    file = Path(write(tmp_path, images))
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    data = Karpathy(annotations=str(file), root=str(root))
    data.attach(tiny_backbone)
    assert data.summary()["train"] == {"items": 2, "left_out": {"no caption": 1}}
    assert data.splits["train"][1]["text"] == ["red key"]
