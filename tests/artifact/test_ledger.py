"""The ledger accounts for every byte and gives a reason for every dense tensor."""

from collections.abc import Callable

from torch import Tensor

from mmcompress.artifact.artifact import Artifact
from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.ledger import LedgerRow, summarise
from mmcompress.backbones.hf_clip import HFClip

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
        assert sum(summarise(rows).values()) == total
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
    assert by_place[bias, "dense"] == LedgerRow(
        bias, "image", "other", "dense", 64 * 4, "not a compressible weight"
    )
    assert by_place[EMBEDDING, "dense"] == LedgerRow(
        EMBEDDING, "text", "embed", "dense", 48 * 32 * 4, "int4: left out"
    )
    assert by_place[PROJECTION, "dense"].note == "no step selected it"
    assert by_place["logit_scale", "dense"].modality == "shared"
    zero_point = by_place[FC1, "zero_point"]
    # One 3-bit zero point for each 8 of 64 x 32 weights.
    assert (zero_point.modality, zero_point.role, zero_point.bytes) == ("image", "mlp.up", 96)
    assert zero_point.note.startswith("integer: quantise → pack")
    assert {row.payload for row in rows if row.tensor == FC1} == {"codes", "scale", "zero_point"}
    assert [row.payload for row in rows[-2:]] == ["header", "manifest"]
