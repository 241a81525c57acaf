"""Paths and captions in tables."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmcompress.backbones.hf_clip import HFClip
from mmcompress.data.table import Table

ROWS = [("a.jpg", "red cat"), ("b.jpg", "blue dog"), ("a.jpg", "red key"), ("c.jpg", "a, b")]


def write(folder: Path, kind: str) -> Path:
    file = folder / f"pairs.{kind}"
    if kind == "jsonl":
        lines = [json.dumps({"file": path, "title": text}) for path, text in ROWS]
    else:
        mark = {"csv": ",", "tsv": "\t"}[kind]
        quoted = [(p, f'"{t}"' if mark in t else t) for p, t in ROWS]
        lines = [mark.join(["file", "title"]), *(mark.join(row) for row in quoted)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def load(backbone: HFClip, **options) -> Table:
    columns = {"path_column": "file", "caption_column": "title"}
    data = Table(**columns | options, eval_batch_size=8)
    data.attach(backbone)
    return data


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_rows_of_one_path_are_one_item(
    kind: str, image_files: Callable[..., Path], tiny_backbone: HFClip
) -> None:
    folder = image_files("a.jpg", "b.jpg", "c.jpg")
    file = write(folder, kind)
    data = load(tiny_backbone, files={"train": str(file), "test": str(file)})
    assert {s: len(items) for s, items in data.splits.items()} == {"train": 2, "test": 3, "val": 1}
    assert data.splits["test"][0]["text"] == ["red cat", "red key"]
    assert data.splits["test"][2]["text"] == ["a, b"]
    (batch,) = data.eval_dataloader("test")
    assert batch["owner"].tolist() == [0, 0, 1, 2]
    assert len(batch["image"]) == 3
    expected = tiny_backbone.tokenize(["red cat", "red key", "blue dog", "a, b"])
    assert torch.equal(batch["text"], expected)


def test_paths_from_another_folder(
    image_files: Callable[..., Path], tmp_path: Path, tiny_backbone: HFClip
) -> None:
    root = image_files("a.jpg", "b.jpg", "c.jpg")
    file = write(tmp_path, "csv")
    data = load(tiny_backbone, files={"train": str(file), "test": None}, root=str(root))
    assert "image" in data.splits["train"][0]


def test_a_missing_file_is_left_out(
    image_files: Callable[..., Path], tiny_backbone: HFClip, caplog: pytest.LogCaptureFixture
) -> None:
    folder = image_files("a.jpg", "c.jpg")
    file = write(folder, "csv")
    data = load(tiny_backbone, files={"train": str(file), "test": str(file)})
    (batch,) = data.eval_dataloader("test")
    assert len(batch["image"]) == 2
    assert batch["owner"].tolist() == [0, 0, 1]
    assert caplog.messages[-1] == "table test: 1 items left out: 1 no such file"


def test_bad_tables(tmp_path: Path, tiny_backbone: HFClip) -> None:
    with pytest.raises(ValueError, match="must name a table for train"):
        Table(files={"test": "a.csv"})
    with pytest.raises(ValueError, match=r"nowhere.csv is no file"):
        load(tiny_backbone, files={"train": str(tmp_path / "nowhere.csv")})
    file = write(tmp_path, "csv")
    with pytest.raises(ValueError, match=r"row 1, has no caption; its columns are file, title"):
        load(tiny_backbone, files={"train": str(file)}, caption_column="caption")
    (tmp_path / "a.xlsx").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"a.xlsx must end in one of .csv, .tsv, .jsonl"):
        load(tiny_backbone, files={"train": str(tmp_path / "a.xlsx")})
    (tmp_path / "a.jsonl").write_text('{"file": "a.jpg", "title": "x"}\n{"fi')
    with pytest.raises(ValueError, match=r"a.jsonl, line 2, is no JSON"):
        load(tiny_backbone, files={"train": str(tmp_path / "a.jsonl")})
    (tmp_path / "empty.csv").write_text("file,title\n")
    with pytest.raises(ValueError, match="split train is empty"):
        load(tiny_backbone, files={"train": str(tmp_path / "empty.csv")})
