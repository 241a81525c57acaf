"""The ledger accounts for every byte and gives a reason for every dense tensor."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.folder import Artifact
from mmcompress.artifact.ledger import (
    LedgerRow,
    Share,
    split_bytes,
    summarize,
    summarize_treatments,
)
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.format import bundles
from mmcompress.format.chain import Chain

FC1 = "vision_model.encoder.layers.0.mlp.fc1.weight"
EMBEDDING = "text_model.embeddings.token_embedding.weight"
PROJECTION = "visual_projection.weight"


def test_adds_up_to_the_files_for_every_encoding(
    kind: str,
    backbone: HFClip,
    encode_as: Callable[[str, Tensor], Encoding],
    save_artifact: Callable[..., Artifact],
) -> None:
    state = backbone.model.state_dict()
    encodings = {key: encode_as(kind, state[key]) for key in (FC1, EMBEDDING)}
    artifact = save_artifact(backbone, encodings=encodings)
    files = ("model.safetensors", "manifest.json")
    total = sum((artifact.folder / name).stat().st_size for name in files)
    assert artifact.bytes == total
    for same in (artifact, Artifact.load(artifact.folder), Artifact.read(artifact.folder)):
        rows = same.ledger()
        assert sum(row.bytes for row in rows) == total
        assert sum(summarize(rows).values()) == total
        assert rows == artifact.ledger()
    size = artifact.size_summary()
    assert size["artifact_bytes"] == total
    assert sum(size["by_modality"].values()) == total
    assert size["compression_ratio"] == 100_000 / total
    assert size["bits_per_weight"] == 8 * total / 25_000
    assert size["dense_dtype"] == "float32"


def test_rows_by_hand(
    backbone: HFClip,
    encode_as: Callable[[str, Tensor], Encoding],
    save_artifact: Callable[..., Artifact],
) -> None:
    encodings = {FC1: encode_as("uint3", backbone.model.state_dict()[FC1])}
    structure: list[dict] = []
    reasons = {EMBEDDING: "int4: left out"}
    rows = save_artifact(
        backbone, encodings=encodings, structure=structure, reasons=reasons
    ).ledger()
    by_place = {(row.tensor, row.payload): row for row in rows}
    bias = FC1.replace("weight", "bias")
    note = "not a compressible weight; frame share"
    size = by_place[bias, "dense"].bytes
    assert by_place[bias, "dense"] == LedgerRow(
        bias, "image", "other", "dense", size, note, "dense", 64
    )
    assert 0.8 * 64 * 4 < size < 64 * 4
    size = by_place[EMBEDDING, "dense"].bytes
    note = "int4: left out; frame share"
    assert by_place[EMBEDDING, "dense"] == LedgerRow(
        EMBEDDING, "text", "embed", "dense", size, note, "dense", 48 * 32
    )
    assert 0.8 * 48 * 32 * 4 < size < 48 * 32 * 4
    assert by_place[PROJECTION, "dense"].note == "no step selected it; frame share"
    assert by_place["logit_scale", "dense"].modality == "shared"
    zero_point = by_place[FC1, "zero_point"]
    # One 3-bit zero point for each 8 of 64 x 32 weights.
    assert (zero_point.modality, zero_point.role, zero_point.bytes) == ("image", "mlp.up", 96)
    assert zero_point.how == "integer: 3 bits, groups of 8"
    assert zero_point.note.startswith("integer: 3 bits, groups of 8; quantize → ")
    shares = summarize_treatments(rows)
    stored = sum(row.bytes for row in rows if row.tensor == FC1)
    assert shares["image", "mlp.up", zero_point.how] == Share(1, 64 * 32, stored)
    assert sum(s.bytes for s in shares.values()) == sum(row.bytes for row in rows)
    total = sum(p.numel() for p in backbone.parameters())
    assert sum(s.parameters for s in shares.values()) == total
    assert {row.payload for row in rows if row.tensor == FC1} == {"codes", "scale", "zero_point"}
    assert [row.payload for row in rows[-2:]] == ["header", "manifest"]


def as_it_is(values: np.ndarray) -> np.ndarray:
    """In the place of `planes.compress`: not smaller."""
    return values.view(np.uint8)


def test_bundle_that_is_not_compressed_is_stated_as_it_is(
    backbone: HFClip, save_artifact: Callable[..., Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundles.planes, "compress", as_it_is)
    artifact = save_artifact(backbone)
    for row in artifact.ledger():
        if row.payload == "dense":
            assert row.bytes == 4 * row.parameters
            assert "frame share" not in row.note
    loaded = Artifact.load(artifact.folder).backbone.model.state_dict()
    for key, tensor in backbone.model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key


@pytest.mark.parametrize(
    ("total", "sizes", "shares"),
    [
        (10, [1, 1, 2, 0], [3, 2, 5, 0]),  # 2.5, 2.5, 5, 0: the first of the tie gets the rest
        (7, [3, 3, 3], [3, 2, 2]),
        (5, [10**6, 1, 1], [5, 0, 0]),
        (3, [1, 2, 2], [1, 1, 1]),  # 0.6, 1.2, 1.2: the largest remainder is the smallest share
        (0, [4, 4], [0, 0]),
    ],
)
def test_split_by_hand(total: int, sizes: list[int], shares: list[int]) -> None:
    assert split_bytes(total, sizes) == shares


@pytest.mark.parametrize(
    ("values", "rest", "words"),
    [
        ({"codec": "quantize", "bits": 4, "group_size": 32}, [], "4 bits, groups of 32"),
        (
            {"codec": "quantize", "bits": 1, "group_size": 64, "grid": "midrise"},
            [],
            "1 bit, per row",
        ),
        ({"codec": "float8", "format": "e4m3", "group_size": 8}, [], "8-bit floats, groups of 8"),
        ({"codec": "codebook", "entries": 16, "block_size": 1}, [], "16 entries"),
        (
            {"codec": "codebook", "entries": 256, "block_size": 4, "group_size": 64},
            [],
            "256 entries, blocks of 4, per row",
        ),
        (
            {"codec": "quantize", "bits": 4, "group_size": 64},
            [{"codec": "bitmask", "kept": 5}],
            "4 bits, per row, masked",
        ),
        (None, [{"codec": "bitmask", "kept": 5}, {"codec": "planes", "of": {}}], "floats, masked"),
        (None, [], "floats"),
    ],
)
def test_description_by_hand(
    values: dict[str, Any] | None, rest: list[dict[str, Any]], words: str
) -> None:
    stages = [values, *rest, {"codec": "pack", "bits": 8}] if values else rest
    assert Chain(stages, (8, 16, 2, 2)).describe() == words
