"""Data sets of Hugging Face on disk."""

from collections.abc import Callable
from pathlib import Path

import datasets
import pytest

from mmcompress.backbones.hf import HF
from mmcompress.backbones.hf_clip import HFClip
from mmcompress.data.hf_datasets import HFDatasets
from tests.data.conftest import tone


@pytest.fixture(autouse=True)
def _quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


def labelled(folder: Path, *, train: int = 10) -> datasets.DatasetDict:
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
    labelled(image_files("a.jpg", "b.jpg")).save_to_disk(tmp_path / "stored")
    columns = {"image_column": "img", "label_column": "label"}
    data = HFDatasets(path=str(tmp_path / "stored"), **columns, eval_batch_size=4)
    data.attach(tiny_backbone)
    assert {s: len(items) for s, items in data.splits.items()} == {"train": 9, "test": 3, "val": 1}
    assert data.class_names == ["red", "blue"]
    assert data.splits["test"][1]["label"] == 1
    (batch,) = data.eval_dataloader("test")
    assert set(batch) == {"image", "label"}


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
    assert set(batch) == {"image", "text", "owner"}


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
    labelled(image_files("a.jpg")).save_to_disk(tmp_path / "stored")
    stored = str(tmp_path / "stored")
    with pytest.raises(ValueError, match=r"has no column image; its columns are img, label"):
        HFDatasets(path=stored, label_column="label").attach(tiny_backbone)
    options = {"image_column": "img", "label_column": "label", "splits": {"train": "fit"}}
    with pytest.raises(ValueError, match=r"has the splits train, test: say with data.splits.train"):
        HFDatasets(path=stored, **options).attach(tiny_backbone)
