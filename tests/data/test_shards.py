"""Shards as people have them: what is read of them, and that the rest is named and counted."""

import io
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from mmcompress.data.losses import Losses
from mmcompress.data.shards import Shards, index_shard
from mmcompress.data.webdataset import WebDataset
from tests.data.conftest import picture, tone, write_shard

RED, BLUE = picture("red"), picture("blue")


def indexed(folder: Path, files) -> tuple[list[str], dict[str, int]]:
    """Keys with suffixes, and what is left out."""
    losses = Losses()
    entries = index_shard(write_shard(folder / "0.tar", files), losses)
    return [f"{e.key} {' '.join(sorted(e.places))}" for e in entries], losses.counts


def read(folder: Path, files, **options) -> Shards:
    return Shards([write_shard(folder / "0.tar", files)], **options)


def test_keys_with_dots(tmp_path: Path) -> None:
    """Two items; one that has a part beside its image; one of which only the caption has a key."""
    files = {
        **{"a.v2.jpg": RED, "a.v2.txt": b"a2", "a.v3.jpg": BLUE, "a.v3.txt": b"a3"},
        **{"a.v2.json": b"{}"},
        **{"b.jpg": RED, "b.txt": b"b", "b.seg.jpg": BLUE, "b.v2.jpg": RED, "b.v2.txt": b"b2"},
        **{"d/c.cam.jpg": RED, "d/c.txt": b"c"},
        **{"e.v2.txt": b"e"},
    }
    keys, counts = indexed(tmp_path, files)
    assert keys == [
        "a.v2 .jpg .txt",
        "a.v3 .jpg .txt",
        "b .jpg .txt",
        "b.v2 .jpg .txt",
        "d/c.cam .jpg",
    ]
    assert counts == {
        "no image or sound, only .txt": 2,
        "a further part of an item (.seg.jpg)": 1,
    }
    items = read(tmp_path, files)
    assert [items[index]["text"] for index in range(len(items))] == [["a2"], ["a3"], ["b"], ["b2"]]
    assert items.losses is not None
    assert items.losses.counts["no .txt file"] == 1


def test_keys_without_dots_are_those_of_webdataset(tmp_path: Path) -> None:
    tariterators = pytest.importorskip("webdataset.tariterators")
    files = {"d/a.jpg": RED, "d/a.seg.png": RED, "d/a.txt": b"a", "b.txt": b"b", "b.JPG": BLUE}
    shard = write_shard(tmp_path / "0.tar", files)
    named = ({"fname": name, "data": data, "__url__": ""} for name, data in files.items())
    expected = [sample["__key__"] for sample in tariterators.group_by_keys(named)]
    assert [entry.key for entry in index_shard(shard, Losses())] == expected == ["d/a", "b"]


def test_captions_without_an_image_and_images_without_a_caption(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {
        **{"a.jpg": RED, "a.txt": b"a", "b.jpg": RED, "c.txt": b"c", "d.heic": b"x", "d.txt": b"d"},
        **{"e.json": b"{}", "f.jpg": BLUE, "f.txt": b"f", "f.json": b"{}", ".e.jpg": RED},
        **{"__MACOSX/g.jpg": RED, "h": b"", "i.jpg": RED, "i.txt": b"i"},
    }
    write_shard(tmp_path / "train" / "0.tar", files)
    data = WebDataset(root=str(tmp_path), val_share=0.4)
    splits = data.build_splits()
    assert {split: len(items) for split, items in splits.items()} == {"train": 2, "val": 1}
    data.splits = splits
    assert data.summary()["train"]["left_out"] == {
        "no image or sound, only .txt": 1,
        "no image or sound, only .heic, .txt": 1,
        "no image or sound, only .json": 1,
        "no image or sound, only a name without suffix": 1,
        "no .txt file": 1,
    }
    assert data.summary()["val"]["left_out"] == {}
    title = f"{data.name} train: "
    assert f"{title}0.tar/c left out, no image or sound, only .txt" in caplog.messages
    assert f"{title}item left out, 0.tar/b: no .txt file" in caplog.messages
    assert caplog.messages[-1].startswith(f"{title}5 items left out: no image or sound, only .txt")


def test_links(tmp_path: Path) -> None:
    hard, soft = tarfile.LNKTYPE, tarfile.SYMTYPE
    files = [
        ("./d/a.jpg", BLUE),
        ("./d/a.txt", b"a"),
        ("d/b.jpg", (hard, "d/a.jpg")),
        ("d/b.txt", (hard, "./d/a.txt")),
        ("d/c.jpg", (soft, "b.jpg")),
        ("d/c.txt", (soft, "../later.txt")),
        ("d/x.jpg", (soft, "/etc/passwd")),
        ("d/y.jpg", (soft, "y.jpg")),
        ("later.txt", b"c"),
    ]
    items = read(tmp_path, files)
    assert [items[index]["text"] for index in range(3)] == [["a"], ["a"], ["c"]]
    assert all(items[index]["image"].getpixel((3, 3))[2] > 250 for index in range(3))
    assert items.losses is not None
    assert items.losses.counts == {
        "a link to nothing in its shard": 2,
        "no image or sound, only .txt": 1,  # later.txt itself
    }


def test_the_same_key_twice_is_two_items(tmp_path: Path) -> None:
    files = [("a.jpg", RED), ("a.txt", b"1"), ("b.jpg", RED), ("b.txt", b"2"), ("a.jpg", BLUE)]
    items = read(tmp_path, [*files, ("a.txt", b"3")])
    assert [items[index]["text"] for index in range(3)] == [["1"], ["2"], ["3"]]
    assert items[2]["image"].getpixel((3, 3))[2] > 250


def test_of_two_images_the_one_that_clip_benchmark_takes(tmp_path: Path) -> None:
    png = io.BytesIO()
    Image.new("RGB", (40, 36), "blue").save(png, "PNG")
    for names in (["a.jpg", "a.png"], ["a.png", "a.jpg"]):
        content = {"a.jpg": RED, "a.png": png.getvalue()}
        items = read(tmp_path, {name: content[name] for name in names} | {"a.txt": b"a"})
        assert items[0]["image"].getpixel((3, 3)) == (0, 0, 255)
        assert items.losses is not None
        assert items.losses.counts == {"a second image of an item": 1}


def test_a_sound_among_images(tmp_path: Path) -> None:
    files = {"a.jpg": RED, "a.txt": b"a", "b.jpg": RED, "b.txt": b"b", "b.wav": tone(200)}
    items = read(
        tmp_path, {**files, "c.wav": tone(200), "c.txt": b"c", "d.jpg": RED, "d.txt": b"d"}
    )
    assert [sorted(items[index]) for index in range(len(items))] == [["image", "text"]] * 3
    assert items.losses is not None
    assert items.losses.counts == {
        "audio of an item, which others lack": 2,
        "no image, which others have": 1,
    }


@pytest.mark.parametrize("where", ["at a header", "in a header", "in a file", "damaged"])
def test_a_shard_that_was_cut_short(where: str, tmp_path: Path) -> None:
    files = {f"{i}{s}": d for i in range(6) for s, d in ((".txt", b"x"), (".jpg", RED))}
    shard = write_shard(tmp_path / "0.tar", files)
    assert Shards([shard]).losses.counts == {}  # type: ignore[union-attr]
    with tarfile.open(shard) as tar:
        header = tar.getmembers()[8]
    data = shard.read_bytes()
    at = {
        "at a header": header.offset,
        "in a header": header.offset + 100,
        "in a file": header.offset_data - 512 - 700,
    }
    if where == "damaged":
        data = data[: header.offset] + b"x" * 512 + data[header.offset + 512 :]
    shard.write_bytes(data[: at.get(where)])
    items = Shards([shard])
    expected = {"what follows in a shard that is cut short or damaged": 1}
    if where == "in a file":  # that of the last image
        expected["no image or sound, only .txt"] = 1
    assert items.losses is not None
    assert items.losses.counts == expected
    assert len(items) == (3 if where == "in a file" else 4)


def test_what_follows_the_end_of_a_shard(tmp_path: Path) -> None:
    """Two shards in one file, as `cat` makes them."""
    one = write_shard(tmp_path / "0.tar", {"a.jpg": RED, "a.txt": b"a"})
    both = tmp_path / "1.tar"
    both.write_bytes(2 * one.read_bytes())
    items = Shards([both])
    assert len(items) == 1
    assert items.losses is not None
    assert items.losses.counts == {"what follows the end of a shard": 1}


@pytest.mark.parametrize("label", [b"-1", b"cat", b"1.0", b"", b"1 2"])
def test_labels_that_are_no_index(label: bytes, tmp_path: Path) -> None:
    files = {"a.jpg": RED, "a.cls": b" 1\r\n", "b.jpg": RED, "b.cls": b"\xef\xbb\xbf0"}
    assert read(tmp_path, files).labels == [1, 0]
    with pytest.raises(ValueError, match=r"0.tar/c.cls holds .*, which is no class index: write"):
        read(tmp_path, {**files, "c.jpg": RED, "c.cls": label})


def test_classes_without_an_item_are_named(
    labeled_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The test split has three items of two classes."""
    data = WebDataset(root=str(labeled_root), class_names=["red", "blue", "green", "gray"])
    data.build_splits()
    said = "2 of 4 classes have no item: green, gray"
    assert caplog.messages == [f"colors test: {said}", f"colors train: {said}"]


def test_captions_in_other_encodings(tmp_path: Path) -> None:
    texts = [
        "\ufeffun café\r\n\r\nzwei\r\n".encode(),
        "café".encode("latin-1"),
        "a".encode("utf-16"),
    ]
    texts += [b"a\0b", b" \n ", b"good"]
    files = {f"{i}{s}": d for i, t in enumerate(texts) for s, d in ((".jpg", RED), (".txt", t))}
    items = read(tmp_path, files)
    assert items[0]["text"] == ["un café", "zwei"]
    assert items[5]["text"] == ["good"]
    assert [items[i].reason for i in range(1, 5)] == [*["no readable caption"] * 3, "no caption"]
    assert "0.tar/1.txt: no readable caption (1.txt is no UTF-8 text" in str(items[1])
    assert "convert it with iconv -f LATIN1 -t UTF-8 1.txt > NEW" in str(items[1])


def test_shards_that_are_compressed(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "train" / "0.tar", {"a.jpg": RED, "a.txt": b"a"})
    packed = tmp_path / "train" / "1.tar.gz"
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(shard, "a.jpg")
    with pytest.raises(ValueError, match=r"1.tar.gz is compressed, and shards are read in place"):
        WebDataset(root=str(tmp_path)).build_splits()
    packed.rename(shard)
    with pytest.raises(ValueError, match=r"0.tar is no plain tar file .* unpack it with gunzip"):
        WebDataset(root=str(tmp_path)).build_splits()


def test_neither_captions_nor_labels(tmp_path: Path) -> None:
    write_shard(tmp_path / "train" / "0.tar", {"a.jpg": RED, "a.json": b"{}"})
    with pytest.raises(ValueError, match=r"have neither captions \(.txt\) nor labels \(.cls\)"):
        WebDataset(root=str(tmp_path), class_names=["red"]).build_splits()


def test_splits_of_other_names(labeled_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (labeled_root / "test").rename(labeled_root / "valid")
    (labeled_root / "train").rename(labeled_root / "training")
    caplog.set_level("INFO")
    splits = WebDataset(root=str(labeled_root)).build_splits()
    assert {split: len(items) for split, items in splits.items()} == {"train": 20, "val": 3}
    assert "data colors: split valid is taken as val" in caplog.messages
