"""Data sets of Hugging Face on disk."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import torch

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.backbones.hf.two_towers import HF
from mmcompress.data.hf_datasets import HFDatasets
from tests.data.conftest import picture, tone


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def labeled(folder: Path, *, train: int = 10) -> datasets.DatasetDict:
    features = datasets.Features(
        {"img": datasets.Image(), "label": datasets.ClassLabel(names=["red", "blue"])}
    )
    names = sorted(str(path) for path in folder.glob("*.jpg"))

    def rows(count: int) -> datasets.Dataset:
        content = {"img": [names[i % len(names)] for i in range(count)]}
        content["label"] = [i % 2 for i in range(count)]
        return datasets.Dataset.from_dict(content, features=features)

    return datasets.DatasetDict({"train": rows(train), "test": rows(3)})


def test_labels(image_files: Callable[..., Path], tmp_path: Path, tiny_backbone: HFClip) -> None:
    labeled(image_files("a.jpg", "b.jpg")).save_to_disk(tmp_path / "stored")
    columns = {"image_column": "img", "label_column": "label"}
    data = HFDatasets(path=str(tmp_path / "stored"), **columns, eval_batch_size=4)
    data.attach(tiny_backbone)
    assert {s: len(items) for s, items in data.splits.items()} == {"train": 9, "test": 3, "val": 1}
    assert data.class_names == ["red", "blue"]
    assert data.splits["test"][1]["label"] == 1
    (batch,) = data.eval_dataloader("test")
    assert set(batch) == {"image", "label", "content"}


def test_a_folder_of_captions(
    image_files: Callable[..., Path], tmp_path: Path, tiny_backbone: HFClip
) -> None:
    """As `load_dataset` reads it: a folder with metadata.jsonl."""
    folder = image_files("train/a.jpg", "train/b.jpg", "train/c.jpg")
    lines = [f'{{"file_name": "{n}.jpg", "caption": "{n} cat"}}' for n in "abc"]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(lines))
    data = HFDatasets(path=str(folder), text_column="caption")
    data.attach(tiny_backbone)
    (batch,) = data.loader(data.splits["val"])
    assert set(batch) == {"image", "content", "text", "owner", "wording"}


def test_sounds_and_several_captions(tmp_path: Path, tiny_clap: HF) -> None:
    (tmp_path / "a.wav").write_bytes(tone(300))
    stored = [{"bytes": tone(300), "path": None}] * 2
    stored.append({"bytes": None, "path": str(tmp_path / "a.wav")})
    content = {"audio": stored, "texts": [["red cat", "red dog"]] * 3}
    rows = datasets.Dataset.from_dict(content).cast_column("audio", datasets.Audio(decode=False))
    datasets.DatasetDict({"fit": rows, "test": rows}).save_to_disk(tmp_path / "stored")
    data = HFDatasets(
        path=str(tmp_path / "stored"),
        image_column=None,
        audio_column="audio",
        text_column="texts",
        splits={"train": "fit", "test": "test"},
    )
    data.attach(tiny_clap)
    (batch,) = data.eval_dataloader("test")
    assert batch["owner"].tolist() == [0, 0, 1, 1, 2, 2]
    assert len(batch["audio"]) == 3


def test_bad_names(image_files: Callable[..., Path], tmp_path: Path, tiny_backbone: HFClip) -> None:
    with pytest.raises(ValueError, match=r"set data.text_column or data.label_column"):
        HFDatasets(path="x")
    with pytest.raises(ValueError, match=r"nowhere' cannot be loaded .*give a name of the hub"):
        HFDatasets(path=str(tmp_path / "nowhere"), text_column="t").attach(tiny_backbone)
    labeled(image_files("a.jpg")).save_to_disk(tmp_path / "stored")
    stored = str(tmp_path / "stored")
    with pytest.raises(ValueError, match=r"has no column image; its columns are img, label"):
        HFDatasets(path=stored, label_column="label").attach(tiny_backbone)
    options = {"image_column": "img", "label_column": "label", "splits": {"train": "fit"}}
    with pytest.raises(ValueError, match=r"has the splits train, test: say with data.splits.train"):
        HFDatasets(path=stored, **options).attach(tiny_backbone)


def stored(folder: Path, features: dict, **splits: dict) -> str:
    """A data set on disk: split → column → values."""
    kinds = datasets.Features(features)
    content = {s: datasets.Dataset.from_dict(c, features=kinds) for s, c in splits.items()}
    datasets.DatasetDict(content).save_to_disk(folder / "stored")
    return str(folder / "stored")


IMAGE, TEXT = datasets.Image(), datasets.Value("string")


def test_rows_that_lack_something(tmp_path: Path, tiny_backbone: HFClip) -> None:
    good = {"bytes": picture(), "path": None}
    images = [good, None, {"bytes": b"no image", "path": None}, good, good, good]
    texts = [[" a ", "", None], ["b"], ["c"], None, [" "], ["d"]]
    labels = [1, 0, 1, 0, 1, None]
    rows = {"image": images, "text": texts, "label": labels}
    features = {"image": IMAGE, "text": datasets.List(TEXT)}
    features["label"] = datasets.ClassLabel(names=["red", "blue"])
    path = stored(tmp_path, features, train=rows, test=rows, dev=rows)
    data = HFDatasets(path=path, text_column="text", label_column="label", eval_batch_size=2)
    data.attach(tiny_backbone)
    assert {s: len(items) for s, items in data.splits.items()} == {"train": 5, "val": 5, "test": 5}
    (batch,) = data.eval_dataloader("test")
    assert batch["label"].tolist() == [1]
    assert torch.equal(batch["text"], tiny_backbone.tokenize(["a"]))
    assert data.summary()["test"] == {
        "items": 5,
        "left_out": {"no caption": 2, "no label": 1, "no image": 1, "no readable image": 1},
    }


@pytest.mark.parametrize(
    ("feature", "values", "column", "said"),
    [
        (datasets.Value("int64"), [0, -1], "label", "row 1 has x=-1, which is no class index"),
        (TEXT, ["cat", "dog"], "label", "column x holds .*, which is no label: set data.label_col"),
        (datasets.Value("int64"), [1, 2], "text", "column x holds .*, which is no text"),
        (datasets.List({"raw": TEXT}), [[{"raw": "a"}]] * 2, "text", "which is no text"),
        (TEXT, ["a.jpg", "b.jpg"], "image", "column x holds .*, which is no image"),
    ],
)
def test_columns_of_other_kinds(
    feature: object, values: list, column: str, said: str, tmp_path: Path, tiny_backbone: HFClip
) -> None:
    good = [{"bytes": picture(), "path": None}] * 2
    features = {"image": IMAGE, "text": TEXT, "x": feature}
    rows = {"image": good, "text": ["a", "b"], "x": values}
    path = stored(tmp_path, features, train=rows)
    columns = {"image_column": "image", "text_column": "text", f"{column}_column": "x"}
    with pytest.raises(ValueError, match=rf"stored', split train: .*{said}"):
        HFDatasets(path=path, class_names=["a", "b"], **columns).attach(tiny_backbone)


def test_a_split_that_is_not_there(tmp_path: Path, tiny_backbone: HFClip) -> None:
    rows = {"image": [{"bytes": picture(), "path": None}] * 2, "text": ["a", "b"]}
    path = stored(tmp_path, {"image": IMAGE, "text": TEXT}, train=rows, test=rows)
    with pytest.raises(ValueError, match=r"has the splits train, test: say with data.splits.test"):
        HFDatasets(path=path, text_column="text", splits={"train": "train", "test": "tset"}).attach(
            tiny_backbone
        )
