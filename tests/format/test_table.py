"""The table of weights, the names of tensors and the bundles of dense ones, by hand."""

import json
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest

from mmcompress.format import bundles as bundles_module
from mmcompress.format.bundles import Bundle, Place, bundle_sizes, place_dense, to_frames
from mmcompress.format.codecs import planes
from mmcompress.format.names import Entry, from_tree, to_tree
from mmcompress.format.table import Part, Weight, add_row, payload_bytes, read_table
from mmcompress.format.tensorfile import Stored, open_file
from mmcompress.format.version_2 import fingerprint
from mmcompress.format.writer import Writer


def entries_of(rows: dict[str, Any]) -> dict[str, Entry]:
    return {name: Entry(name, (1, 5), row=rows[name]) for name in sorted(rows)}


def test_rows_by_hand() -> None:
    kinds: list[dict] = []
    sides = {"scale": np.ones((2, 1), np.float16), "codes": np.zeros(5, np.uint8)}
    grid = {"codec": "quantize", "bits": 4, "group_size": 5}
    masked = [grid, {"codec": "bitmask", "kept": 7}, {"codec": "pack", "bits": 4}]
    sparse = sides | {"mask": np.zeros(2, np.uint8)}
    rows = {
        "b": add_row(kinds, ["int4"], [grid, {"codec": "pack", "bits": 4}], sides, None),
        "a": add_row(kinds, ["prune", "int4"], masked, sparse, None),
        "c": add_row(kinds, ["int4"], [grid, {"codec": "pack", "bits": 4}], sides, None),
    }
    assert rows == {"b": [0, 5, 4], "a": [1, 5, 2, 4, 7], "c": [0, 5, 4]}
    assert kinds[1] == {
        "steps": ["prune", "int4"],
        "chain": [grid, {"codec": "bitmask"}, {"codec": "pack", "bits": 4}],
        "payloads": {"codes": "uint8", "mask": "uint8", "scale": "float16"},
    }
    table = read_table(kinds, entries_of(rows), [2, 1])
    assert list(table) == ["a", "b", "c"]
    assert table["a"].stages == masked
    assert table["a"].parts == {
        "codes": Part("uint8", 0, 0, 5, "a"),
        "mask": Part("uint8", 0, 5, 2, "a"),
        "scale": Part("float16", 0, 7, 4, "a"),
    }
    assert table["b"].parts["codes"] == Part("uint8", 0, 11, 5, "b")
    assert table["c"].parts["scale"] == Part("float16", 1, 5, 4, "c")
    assert [payload_bytes(table, file) for file in (0, 1)] == [20, 9]


def test_shared_codebook_by_hand() -> None:
    kinds: list[dict] = []
    sides = {"codebook": np.zeros((3, 1), np.float32), "indices": np.zeros(4, np.uint8)}
    chain = [{"codec": "codebook", "entries": 3, "block_size": 1}, {"codec": "pack", "bits": 2}]
    rows = {
        key: add_row(kinds, ["vq"], chain, sides, owner) for key, owner in [("a", None), ("b", "a")]
    }
    assert rows == {"a": [0, 12, 4], "b": [0, "a", 4]}
    table = read_table(kinds, entries_of(rows), [2])
    assert table["b"] == Weight(
        ["vq"],
        chain,
        {"codebook": Part("float32", 0, 0, 12, "a"), "indices": Part("uint8", 0, 16, 4, "b")},
    )
    assert payload_bytes(table) == 20


def test_names_by_hand() -> None:
    entries = [
        Entry("layers.0.fc1.bias", (4,), modality="text"),
        Entry("layers.1.fc1.bias", (4,), modality="text"),
        Entry("layers.2.fc1.bias", (4,), modality="text"),
        Entry("layers.10.fc1.bias", (3,), modality="text"),
        Entry("layers.0.fc1.weight", (4, 2), modality="text", role="mlp.up", row=[0, 7]),
        Entry("layers.1.fc1.weight", (4, 2), modality="text", role="mlp.up", row=[1, 8, 9]),
        Entry("layers.2.fc1.weight", (4, 2), modality="text", role="mlp.up", why="too small"),
        Entry("logit_scale", ()),
        Entry("mlp.0.0.weight", (1,), "int64"),
    ]
    forms, tree = to_tree(reversed(entries))
    assert forms == [
        {"shape": [4], "modality": "text"},
        {"shape": [4, 2], "modality": "text", "role": "mlp.up"},
        {"shape": [3], "modality": "text"},
        {"shape": [4, 2], "modality": "text", "role": "mlp.up", "why": "too small"},
        {"shape": [], "modality": "shared"},
        {"shape": [1], "modality": "shared", "dtype": "int64"},
    ]
    assert tree == {
        "layers": {
            "*": {
                "fc1": {
                    "bias": [0, "0-2", 2, "10"],
                    "weight": [1, {"0": [0, 7], "1": [1, 8, 9]}, 3, "2"],
                }
            }
        },
        "logit_scale": [4, ""],
        "mlp": {"*": {"0": {"weight": [5, "0"]}}},
    }
    read = from_tree(json.loads(json.dumps(forms)), json.loads(json.dumps(tree)), most=9)
    assert list(read.values()) == sorted(entries, key=lambda entry: entry.name)
    with pytest.raises(ValueError, match="too many for these files"):
        from_tree(forms, tree, most=8)


@pytest.mark.parametrize("name", ["a.*.b", "*", "a..b", ""])
def test_a_name_that_could_not_be_read_back(name: str) -> None:
    with pytest.raises(ValueError, match="has no place in a manifest: rename its module"):
        to_tree([Entry(name, ())])


DENSE = {
    "c": np.array([[1, 2], [3, 4]], np.float32),
    "a": np.array(5, np.float32),
    "d": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "b": np.array([7], np.int64),
}


def write_dense(folder: Path, tensors: dict[str, np.ndarray], **options: Any) -> dict[str, Any]:
    with Writer(folder, **options) as writer:
        for name in sorted(tensors):
            entry = Entry(name, tensors[name].shape, tensors[name].dtype.name)
            writer.add_dense(entry, tensors[name])
        return writer.finish()


def test_bundles_by_hand(tmp_path: Path) -> None:
    found = write_dense(tmp_path, DENSE)
    entries = from_tree(found["forms"], found["tensors"], 10)
    places = place_dense(entries, [5], halved=False)
    assert places == {
        "a": Place("float32", 0, 0, ()),
        "b": Place("int64", 0, 0, (1,)),
        "c": Place("float32", 0, 1, (2, 2)),
        "d": Place("bool", 0, 0, (2,)),
        "empty": Place("float32", 0, 5, (0, 3)),
    }
    assert bundle_sizes(places.values()) == {"float32": 5, "int64": 1, "bool": 2}
    with open_file(tmp_path / "model.safetensors") as tensors:
        assert tensors.keys() == {"dense.float32.planes", "dense.int64", "dense.bool"}
        frame = tensors["dense.float32.planes"].read(0, 100)
    assert planes.decompress(frame, np.dtype(np.float32), 5).tolist() == [5, 1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors"]


def test_bundles_in_half_precision(tmp_path: Path) -> None:
    write_dense(tmp_path, DENSE, halved=True)
    with open_file(tmp_path / "model.safetensors") as tensors:
        frame = tensors["dense.float16.planes"].read(0, 100)
    assert planes.decompress(frame, np.dtype(np.float16), 5).tolist() == [5, 1, 2, 3, 4]
    # Whole columns of one kind compress: the bytes of small integers are mostly zero.
    write_dense(tmp_path, {"x": np.arange(1000)})
    with open_file(tmp_path / "model.safetensors") as tensors:
        assert tensors.keys() == {"dense.int64.planes"}


@pytest.mark.parametrize("size", [4, 5, 11, 12])
def test_bundles_of_several_frames_are_read_in_parts(
    size: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bundles_module, "FRAME", 4)
    values = np.arange(size) * 1000
    frames = np.concatenate(list(to_frames(values)))
    (tmp_path / "x").write_bytes(frames.tobytes())
    with (tmp_path / "x").open("rb") as file:
        stored = Stored(file, Lock(), 0, len(frames), "U8", frames.shape)
        opened = Bundle(stored, "int64", size, framed=True)
        for start in range(size + 1):
            for stop in range(start, size + 1):
                assert np.array_equal(opened[start:stop], values[start:stop])


def test_what_is_not_exact_or_not_storable_is_our_bug(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="x is not rounded to float16"):
        write_dense(tmp_path, {"x": np.array([0.1], np.float32)}, halved=True)
    with pytest.raises(AssertionError, match="complex64 has no place in the file"):
        write_dense(tmp_path, {"x": np.zeros(2, np.complex64)})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "other",
    [
        {"a": (3, 2), "b": (4,)},
        {"a": (2, 3), "c": (4,)},
        {"a": (2, 3)},
        {"b": (2, 3), "a": (4,)},
    ],
)
def test_fingerprint_of_format_2_tells_models_apart(other: dict[str, tuple[int, ...]]) -> None:
    def of(shapes: dict[str, tuple[int, ...]], dtype: str = "float32") -> str:
        return fingerprint([Entry(name, shape, dtype) for name, shape in shapes.items()])

    shapes = {"a": (2, 3), "b": (4,)}
    assert of(shapes) == of({key: shapes[key] for key in ("b", "a")})
    assert of(shapes) != of(other)
    assert of(shapes) != of(shapes, "float16")
