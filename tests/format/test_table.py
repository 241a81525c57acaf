"""The table of weights and the bundles of dense tensors, by hand."""

import pytest
import torch
from torch import Tensor

from mmcompress.format import bundles as bundles_module
from mmcompress.format.bundles import (
    Frames,
    Place,
    bundle_sizes,
    fingerprint,
    make_bundles,
    place_dense,
)
from mmcompress.format.codecs import planes
from mmcompress.format.table import Part, Weight, add_row, payload_bytes, read_table


def test_rows_by_hand() -> None:
    kinds: list[dict] = []
    sides = {"scale": torch.ones(2, 1).half(), "codes": torch.zeros(5, dtype=torch.uint8)}
    grid = {"codec": "quantize", "bits": 4, "group_size": 5}
    masked = [grid, {"codec": "bitmask", "kept": 7}, {"codec": "pack", "bits": 4}]
    sparse = sides | {"mask": torch.zeros(2, dtype=torch.uint8)}
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
    table = read_table(kinds, rows)
    assert list(table) == ["a", "b", "c"]
    assert table["a"].chain == masked
    assert table["a"].parts == {
        "codes": Part("uint8", 0, 5, "a"),
        "mask": Part("uint8", 5, 2, "a"),
        "scale": Part("float16", 7, 4, "a"),
    }
    assert table["b"].parts["codes"] == Part("uint8", 11, 5, "b")
    assert table["c"].parts["scale"] == Part("float16", 25, 4, "c")
    assert payload_bytes(table) == 29


def test_shared_codebook_by_hand() -> None:
    kinds: list[dict] = []
    sides = {"codebook": torch.zeros(3, 1), "indices": torch.zeros(4, dtype=torch.uint8)}
    chain = [{"codec": "codebook", "entries": 3, "block_size": 1}, {"codec": "pack", "bits": 2}]
    rows = {
        key: add_row(kinds, ["vq"], chain, sides, owner) for key, owner in [("a", None), ("b", "a")]
    }
    assert rows == {"a": [0, 12, 4], "b": [0, "a", 4]}
    table = read_table(kinds, rows)
    assert table["b"] == Weight(
        ["vq"],
        chain,
        {"codebook": Part("float32", 0, 12, "a"), "indices": Part("uint8", 16, 4, "b")},
    )
    assert payload_bytes(table) == 20


def test_bundles_by_hand() -> None:
    state = {
        "c": torch.tensor([[1.0, 2.0], [3.0, 4.0]]),
        "a": torch.tensor(5.0),
        "d": torch.tensor([True, False]),
        "encoded": torch.zeros(9),
        "empty": torch.zeros(0, 3),
        "b": torch.tensor([7], dtype=torch.int64),
    }
    places = place_dense(state, {"encoded"}, halved=False)
    assert places == {
        "a": Place(torch.float32, 0, torch.Size([])),
        "b": Place(torch.int64, 0, torch.Size([1])),
        "c": Place(torch.float32, 1, torch.Size([2, 2])),
        "d": Place(torch.bool, 0, torch.Size([2])),
        "empty": Place(torch.float32, 5, torch.Size([0, 3])),
    }
    assert bundle_sizes(places.values()) == {torch.float32: 5, torch.int64: 1, torch.bool: 2}
    bundles = make_bundles(state, places)
    assert bundles.keys() == {"dense.float32.planes", "dense.int64", "dense.bool"}
    frame = bundles["dense.float32.planes"]
    assert planes.decompress(frame, torch.float32, 5).tolist() == [5, 1, 2, 3, 4]
    halved = make_bundles(state, place_dense(state, {"encoded"}, halved=True))
    frame = halved["dense.float16.planes"]
    assert planes.decompress(frame, torch.float16, 5).tolist() == [5, 1, 2, 3, 4]
    # Whole columns of one kind compress: the bytes of small integers are mostly zero.
    wide = {"x": torch.arange(1000)}
    assert make_bundles(wide, place_dense(wide, (), halved=True)).keys() == {"dense.int64.planes"}


class Stored:
    """Stands in for a slice of a safetensors file."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def get_shape(self) -> list[int]:
        return list(self.data.shape)

    def __getitem__(self, wanted: slice) -> Tensor:
        return self.data[wanted]


@pytest.mark.parametrize("size", [4, 5, 11, 12])
def test_bundles_of_several_frames_are_read_in_parts(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles_module, "FRAME", 4)
    state = {"x": torch.arange(size) * 1000}
    (frames,) = make_bundles(state, place_dense(state, (), halved=False)).values()
    opened = Frames(Stored(frames), torch.int64, size)
    for start in range(size + 1):
        for stop in range(start, size + 1):
            assert torch.equal(opened[start:stop], state["x"][start:stop])


def test_what_is_not_exact_or_not_storable_is_our_bug() -> None:
    value = torch.tensor([0.1])
    with pytest.raises(AssertionError, match="x is not rounded to float16"):
        make_bundles({"x": value}, place_dense({"x": value}, (), halved=True))
    value = torch.zeros(2, dtype=torch.complex64)
    with pytest.raises(AssertionError, match="complex64 has no place in the file"):
        make_bundles({"x": value}, place_dense({"x": value}, (), halved=False))


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.zeros(3, 2), "b": torch.zeros(4)},
        {"a": torch.zeros(2, 3), "c": torch.zeros(4)},
        {"a": torch.zeros(2, 3), "b": torch.zeros(4).half()},
        {"a": torch.zeros(2, 3)},
        {"b": torch.zeros(2, 3), "a": torch.zeros(4)},
    ],
)
def test_fingerprint_tells_models_apart(other: dict[str, Tensor]) -> None:
    state = {"a": torch.zeros(2, 3), "b": torch.zeros(4)}
    assert fingerprint(state) == fingerprint({k: state[k].to("meta") + 1 for k in ("b", "a")})
    assert fingerprint(state) != fingerprint(other)
