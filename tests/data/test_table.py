"""Paths and captions in tables."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mmcompress.backbones.hf.clip import HFClip
from mmcompress.data.rows import read_pairs
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
    assert caplog.messages[-1] == "table test: 1 items left out: no such file (1)"


def test_bad_tables(tmp_path: Path, tiny_backbone: HFClip) -> None:
    with pytest.raises(ValueError, match="must name a table for train"):
        Table(files={"test": "a.csv"})
    with pytest.raises(ValueError, match=r"nowhere.csv is no file"):
        load(tiny_backbone, files={"train": str(tmp_path / "nowhere.csv")})
    file = write(tmp_path, "csv")
    with pytest.raises(ValueError, match=r"has no column caption; its columns are file, title"):
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


def pairs(folder: Path, name: str, content: str | bytes) -> list[tuple[str, tuple[str, ...]]]:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_pairs(file, "path", "caption"))


def test_a_list_is_several_captions(tmp_path: Path) -> None:
    lines = [
        {"path": "a.png", "caption": ["a cat", " on a mat "]},
        {"path": "b.png", "caption": "a dog"},
        {"path": "a.png", "caption": ["third"], "more": [1, {"a": None}]},
    ]
    content = "\n\r\n".join(json.dumps(line) for line in lines) + "\n \n"
    expected = [("a.png", ("a cat", "on a mat")), ("b.png", ("a dog",)), ("a.png", ("third",))]
    assert pairs(tmp_path, "a.jsonl", "\ufeff" + content) == expected
    table = Table(files={"train": str(tmp_path / "a.jsonl")})
    assert [(entry.key, entry.texts) for entry in table._entries(tmp_path / "a.jsonl")] == [
        ("a.png", ("a cat", "on a mat", "third")),
        ("b.png", ("a dog",)),
    ]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("null", "has no caption"),
        ("[]", "has no caption"),
        ('"  "', "has no caption"),
        ('["a", ""]', "has no caption"),
        ("NaN", "has NaN as caption: give a text, or a list of texts"),
        ("7", "has 7 as caption"),
        ("true", "has true as caption"),
        ('{"en": "x"}', r'has \{"en": "x"\} as caption'),
        ('["a", 7]', r'has \["a", 7\] as caption'),
        ('[["a"]]', r'has \[\["a"\]\] as caption'),
        ("\"['a cat', 'b']\"", "has a list written as text"),
        ('"[\\"a cat\\"]"', "has a list written as text"),
        (r'"a \ud83d"', r"holds the character '.ud83d', which is no text"),
        (r'"a \u0000 b"', r"holds the character '.x00', which is no text"),
        ('"a"}{', "is no JSON"),
        ('"a"},', "is no JSON"),
        ('"a", "caption": "b"', r"is no JSON \(a key occurs twice\)"),
    ],
)
def test_captions_of_other_types(value: str, said: str, tmp_path: Path) -> None:
    end = "" if value.endswith(("{", ",")) else "}"
    line = f'{{"path": "b.png", "caption": {value}{end}'
    with pytest.raises(ValueError, match=rf"a.jsonl, line 3, {said}"):
        pairs(tmp_path, "a.jsonl", f'{{"path": "a.png", "caption": "x"}}\n\n{line}\n')


def test_cells_as_editors_write_them(tmp_path: Path) -> None:
    plain = [("a.png", ("a cat",)), ("b.png", ("a dog",))]
    content = "path,caption\r\na.png,a cat\r\n\r\nb.png, a dog \r\n"
    assert pairs(tmp_path, "a.csv", content) == plain
    assert pairs(tmp_path, "a.csv", "\ufeff" + content) == plain
    assert pairs(tmp_path, "a.csv", content.replace("path,caption", '"path", caption')) == plain
    quoted = 'path,caption\na.png,"a ""big"" dog, two\nlines, three"\nb.png,a 5" nail\n'
    big = [("a.png", ('a "big" dog, two\nlines, three',)), ("b.png", ('a 5" nail',))]
    assert pairs(tmp_path, "a.csv", quoted) == big
    assert pairs(tmp_path, "a.csv", "path,caption\na.png,[a] 'cat'\n") == [
        ("a.png", ("[a] 'cat'",))
    ]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ("b.png,a cat, on a mat", "line 3, has 3 cells and the table 2 columns"),
        ("b.png", "line 3, has 1 cells and the table 2 columns"),
        ("b.png, ", "line 3, has no caption: write one, or remove the row"),
        (",a cat", "line 3, has '' as path"),
        ('b.png,"hello\nc.png,x\nd.png,y', "line 3: a quotation mark is opened and never closed"),
        ('b.png,"hello\nc.png,say "hi"\nd.png,y', "line 3: text follows a closing quotation mark"),
        (
            'b.png,"hello\nc.png,a 5"\nd.png,y',
            "line 3, has a cell that goes on over the rows below",
        ),
        (f"b.png,{'x' * 200_000}", "line 3: a cell has more than 131,072 characters"),
        ("b.png,\"['a cat', 'b']\"", "line 3, has a list written as text"),
        ("b.png,a\0b", "line 3, holds the character '.x00'"),
    ],
)
def test_rows_that_do_not_fit(rows: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"a.csv, {said}"):
        pairs(tmp_path, "a.csv", f"path,caption\na.png,fine\n{rows}\n")


def test_headers_that_do_not_fit(tmp_path: Path) -> None:
    for content, said in {
        "path;caption\na.png;x\n": "write ',' between cells in place of ';'",
        "path,caption,caption\na.png,x,y\n": "a.csv has 2 columns caption: rename one",
        "": "a.csv is empty: its first line must name the columns",
    }.items():
        with pytest.raises(ValueError, match=said):
            pairs(tmp_path, "a.csv", content)
    for encoding, name in {"utf-16": "UTF-16", "latin-1": "LATIN1"}.items():
        with pytest.raises(ValueError, match=rf"a.csv .*iconv -f {name} -t UTF-8 .*a.csv > NEW"):
            pairs(tmp_path, "a.csv", "path,caption\na.png,café\n".encode(encoding))
