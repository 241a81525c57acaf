"""Tensors and payloads that are not what the manifest says are refused before memory is taken."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmcompress.artifact.folder import Artifact
from mmcompress.format import reader as reader_module
from mmcompress.format.chain import Chain
from mmcompress.format.codecs import planes
from mmcompress.format.errors import ArtifactError
from tests.artifact.refusal import (
    BIAS,
    BLOCKS,
    CLUSTERED,
    DENSE,
    EMBEDDING,
    FC1,
    FC2,
    OTHER,
    PRUNED,
    Forge,
    refuse,
)


@pytest.mark.parametrize("key", [DENSE, "payloads"])
def test_missing_tensor(key: str, forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    del forger.tensors[key]
    refuse(forger.write(), f"misses the tensor {key.removesuffix('.planes')}")


@pytest.mark.parametrize("name", ["stowaway", "dense.float32", "dense.int8", "payloads", BIAS])
def test_extra_tensor(name: str, forge: Forge) -> None:
    forger = forge()
    forger.tensors[name] = np.zeros(3, np.float32)
    refuse(forger.write(), f"holds a tensor {name} that the model does not have")


def test_weight_that_the_model_does_not_have(forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    forger.entries["other.weight"] = replace(forger.entries.pop(FC1), name="other.weight")
    forger.rows["other.weight"] = forger.rows.pop(FC1)
    refuse(forger.write(), "lists other.weight, which the model does not have")


def test_dense_bundle_of_another_size_or_dtype(forge: Forge) -> None:
    forger = forge()
    frame = forger.tensors.pop(DENSE)
    count = sum(t.numel() for t in Artifact.read(forger.folder).backbone.model.parameters())
    values = planes.decompress(frame, np.dtype(np.float32), count)
    for bundle, message in [
        (values[:-1], rf"it has shape \({count - 1},\), the model has {count} such values"),
        (np.concatenate([values, values[:1]]), rf"it has shape \({count + 1},\)"),
        (values[None], rf"it has shape \(1, {count}\)"),
        (values.astype(np.float16), "it is F16 where F32 is expected"),
        (np.array(1.0, np.float32), r"it has shape \(\)"),
    ]:
        forger.tensors["dense.float32"] = np.ascontiguousarray(bundle).reshape(bundle.shape)
        refuse(forger.write(), f"dense.float32 does not fit: {message}")
    forger.tensors["dense.float32"] = values
    Artifact.load(forger.write())


def test_dense_frame_that_lies(forge: Forge) -> None:
    forger = forge()
    frame = forger.tensors[DENSE]
    for other, message in [
        (frame.astype(np.int16), "is I16 where U8 is expected"),
        (frame[None], "has shape"),
        (frame[:0], "is no frame of"),
        (frame[:-1], "frames do not add up to its"),
        (np.concatenate([frame, frame[:1]]), "frames do not add up to its"),
        (
            planes.compress(np.random.default_rng(0).random(7, np.float32)),
            "frames do not add up to its",
        ),
    ]:
        forger.tensors[DENSE] = other
        refuse(forger.write(), f"{DENSE} does not fit: it.* {message}")
    damaged = frame.copy()
    damaged[-100:] ^= 0x55  # in the last plane, which holds the exponents
    forger.tensors[DENSE] = damaged
    with pytest.raises(ArtifactError, match="logit_scale does not decode"):
        Artifact.load(forger.write())


def test_dense_frame_that_claims_more_than_it_can_hold(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model agrees with the frame, of 18 bytes; only the bytes are not there."""
    forger = forge()
    state = Artifact.read(forger.folder).backbone.model.state_dict()
    forger.manifest["spec"]["config"]["text_config"]["vocab_size"] = 10**6
    forger.fit()
    count = sum(tensor.numel() for tensor in state.values()) + (10**6 - 48) * 32
    forger.tensors[DENSE] = false_planes(count, width=4)
    forger.write()
    monkeypatch.delattr(reader_module, "open_bundle")
    refuse(forger.folder, "a plane of 18 bytes cannot hold 4194304")


def test_model_with_other_tensors_than_those_stored(forge: Forge) -> None:
    """As many values under other names: nothing but the fingerprint would tell."""
    forger = forge()
    config = forger.manifest["spec"]["config"]
    config["vision_config"]["intermediate_size"], config["text_config"]["intermediate_size"] = (
        96,
        32,
    )
    refuse(forger.sign(), "whose tensors are not those that were stored: .*; install the library")
    forger.entries["other"] = replace(forger.entries.pop(BIAS), name="other")
    refuse(forger.sign(), "lists other, which the model does not have")
    forger.fit()
    Artifact.load(forger.sign())


def test_model_that_claims_more_than_its_bytes(forge: Forge) -> None:
    """The shape agrees with the model, of 128 MB; only the bytes are not there."""
    forger = forge({EMBEDDING: "int4"})
    forger.manifest["spec"]["config"]["text_config"]["vocab_size"] = 10**6
    forger.fit()
    refuse(forger.sign(), f"{EMBEDDING} does not fit its bytes")


def test_encoded_weight_that_holds_no_floats(forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    forger.entries[FC1] = replace(forger.entries[FC1], dtype="float16")
    refuse(forger.sign(), f"encodes {FC1}, which is no float32")


def false_frame(size: int) -> np.ndarray:
    """18 bytes that say they hold `size`."""
    frame = b"\x28\xb5\x2f\xfd\xc0\x50" + size.to_bytes(8, "little") + b"\x43\0\0\0"
    return np.frombuffer(frame, np.uint8)


def false_planes(count: int, width: int = 1) -> np.ndarray:
    """`width` planes of 18 bytes each that say they hold `count`."""
    head = np.array([planes.ZSTD, 18, 0, 0, 0], np.uint8)
    return np.concatenate([head] * width + [false_frame(count)] * width)


def claim_a_bomb(forger: Any, rows: int) -> Path:
    """Codes of `rows` x 32 bytes in a plane of 18 bytes that says so."""
    forger.manifest["spec"]["config"]["text_config"]["vocab_size"] = rows
    forger.fit()
    forger.replace(EMBEDDING, "codes", false_planes(rows * 32))
    forger.replace(EMBEDDING, "scale", planes.compress(np.ones(rows, np.float16)))
    forger.own_kind(EMBEDDING)["chain"] = [
        {"codec": "quantize", "bits": 8, "group_size": 32},
        {"codec": "pack", "bits": 8},
        {"codec": "planes", "of": {"codes": "uint8", "scale": "float16"}},
    ]
    return forger.write()


def test_payload_that_claims_more_than_it_can_hold(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = claim_a_bomb(forge({EMBEDDING: "int8"}), rows=10**6)
    monkeypatch.delattr(Chain, "open")
    tracemalloc.start()
    refuse(folder, "a plane of 18 bytes cannot hold 32000000")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_payload_that_holds_another_size_than_its_shape(forge: Forge) -> None:
    forger = forge({EMBEDDING: "int8"})
    claim_a_bomb(forger, rows=48)
    codes = np.tile(np.arange(256, dtype=np.uint8), 6)
    forger.replace(EMBEDDING, "codes", planes.compress(codes))
    Artifact.load(forger.write())
    forger.replace(EMBEDDING, "codes", planes.compress(np.tile(codes, 2)))
    with pytest.raises(ArtifactError, match="its frame states 3072 bytes where 1536 are expected"):
        Artifact.load(forger.write())
    forger.replace(
        EMBEDDING, "codes", planes.compress(np.random.randint(0, 256, 1537).astype(np.uint8))
    )
    refuse(forger.write(), "its frame of 1538 bytes states 1537, for 1536 numbers")


@pytest.mark.parametrize(
    ("name", "stage", "fields", "message"),
    [
        (FC1, 0, {"codec": "exec"}, "are not some of"),
        (FC1, 0, {"bits": 9}, "packs codes of 9 bits into 8"),
        (FC1, 0, {"group_size": 5}, "no divisor of 32 columns"),
        (FC1, 1, {"bits": 16}, "payload codes"),
        (EMBEDDING, 0, {"entries": 2**16}, "payload codebook"),
    ],
)
def test_stage_that_does_not_fit(
    name: str, stage: int, fields: dict[str, Any], message: str, forge: Forge
) -> None:
    forger = forge({FC1: "int8", EMBEDDING: "cluster"})
    forger.own_kind(name)["chain"][stage] |= fields
    refuse(forger.write(), message)


def test_stage_without_its_payload(forge: Forge) -> None:
    forger = forge({FC1: "int8"})
    forger.own_kind(FC1)["chain"].insert(1, {"codec": "bitmask"})
    refuse(forger.sign(), "gives .* 3 entries, its kind wants")
    forger.rows[FC1].append(1)
    refuse(forger.sign(), "payloads are .*, expected .*mask")


@pytest.mark.parametrize("kept", [-1, 10**9, 1.0, True, "1", None])
def test_mask_that_keeps_no_possible_number(kept: Any, forge: Forge) -> None:
    forger = forge(PRUNED)
    forger.rows[FC1][-1] = kept
    refuse(forger.sign(), "bitmask has kept=.*, not in 0…2048")


def test_index_past_the_end_of_its_codebook(forge: Forge) -> None:
    forger = forge({EMBEDDING: "cluster"})
    forger.replace(EMBEDDING, "codebook", np.zeros((5, 1), np.float32))
    forger.replace(EMBEDDING, "indices", np.full(48 * 32, 5, np.uint8))
    forger.own_kind(EMBEDDING)["chain"] = [
        {"codec": "codebook", "block_size": 1, "entries": 5},
        {"codec": "pack", "bits": 8},
    ]
    with pytest.raises(ArtifactError, match="index points past the end of its codebook"):
        Artifact.load(forger.write())


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([2048, -20], "gives payload scale of .* no number of bytes: -20"),
        ([-1, 2**40], "gives payload codes of .* no number of bytes: -1"),
        ([2**63 - 1, 1], "payloads is U8 .* the manifest's lengths add up to"),
        ([2**70, 1], "a number does not fit 64 bits"),
        ([True, 1], "no number of bytes: True"),
        ([10.0, 1], "no number of bytes: 10.0"),
        ([None, 1], "no number of bytes: None"),
        ([[1], 1], "no number of bytes"),
        ([FC1, 1], "no number of bytes"),
        ([1, FC2], "no number of bytes"),
        ([1], "2 entries, its kind wants"),
        ([1, 2, 3], "4 entries, its kind wants"),
        ([2**62, 2**62], "payloads is U8 .* the manifest's lengths add up to"),
        ([0, 0], "payloads is U8 .* the manifest's lengths add up to"),
    ],
)
def test_lengths_that_make_no_sense(lengths: list[Any], message: str, forge: Forge) -> None:
    forger = forge({FC1: "int8", FC2: "int8"})
    forger.rows[FC1][1:] = lengths
    refuse(forger.sign(), message)


def test_lengths_that_reach_into_the_next_weight(forge: Forge) -> None:
    """They add up to what is there, and still do not fit the shapes."""
    forger = forge({FC1: "int8", FC2: "int8"})
    for key in (FC1, FC2):
        forger.own_kind(key)["chain"] = [
            {"codec": "quantize", "bits": 8, "group_size": 64 if key == FC2 else 32},
            {"codec": "pack", "bits": 8},
        ]
        forger.replace(key, "codes", np.zeros(2048, np.uint8))
        forger.replace(key, "scale", np.ones(32 if key == FC2 else 64, np.float16))
    Artifact.load(forger.write())
    first, second = (forger.rows[key] for key in (FC1, FC2))
    for row, position, change in [(first, 1, 1), (first, 2, -1), (second, 1, -2), (second, 2, 2)]:
        row[position] += change * 8
    refuse(forger.sign(), "payload codes has 2056 bytes where 2048 are expected")


@pytest.mark.parametrize("change", [b"\0", b""])
def test_payloads_that_do_not_add_up(change: bytes, forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    stored = forger.tensors["payloads"].tobytes()
    other = stored + change if change else stored[:-1]
    forger.tensors["payloads"] = np.frombuffer(other, np.uint8)
    refuse(forger.write(), rf"payloads is U8 \({len(other)},\), .* add up to U8 \({len(stored)},\)")
    forger.tensors["payloads"] = np.frombuffer(stored, np.int8)
    refuse(forger.write(), "payloads is I8")
    forger.tensors["payloads"] = np.frombuffer(stored, np.uint8)[None]
    refuse(forger.write(), r"payloads is U8 \(1, ")


def share(forger: Any, owners: dict[str, str]) -> None:
    """Let weights share others' codebooks, their own dropped."""
    dtypes = {}
    for key in owners:
        kinds, row = forger.manifest["kinds"], forger.rows[key]
        dtypes[key] = kinds[row[0]]["payloads"].get("codebook", "float32")
        forger.replace(key, "codebook", np.zeros(0, np.float32))
    for key, owner in owners.items():
        forger.own_kind(key)["payloads"]["codebook"] = dtypes[key]
        forger.rows[key][1] = owner


def test_shared_codebook_loads(forge: Forge) -> None:
    forger = forge(CLUSTERED)
    share(forger, {FC2: FC1})
    model = Artifact.load(forger.write()).backbone.model.state_dict()
    assert set(model[FC2].unique().tolist()) <= set(model[FC1].unique().tolist())


@pytest.mark.parametrize(
    ("owners", "message"),
    [
        ({FC1: FC1}, "which has none such of its own"),
        ({FC1: FC2, FC2: FC1}, "which has none such of its own"),
        ({FC1: FC2}, "which has none such of its own"),
        ({FC2: FC1, OTHER: FC2}, f"lets {OTHER} share the codebook of {FC2}, which has none such"),
        ({FC2: BIAS}, "which has none such of its own"),
        ({FC2: "nothing"}, "which has none such of its own"),
        ({FC2: ""}, "which has none such of its own"),
        ({OTHER: EMBEDDING}, "which has none such of its own"),
        ({OTHER: BLOCKS}, "which is of another form"),
    ],
)
def test_codebook_that_cannot_be_shared(owners: dict[str, str], message: str, forge: Forge) -> None:
    forger = forge({**CLUSTERED, EMBEDDING: "int4", BLOCKS: "blocks"})
    share(forger, owners)
    refuse(forger.write(), message)


def test_shared_codebook_of_another_dtype(forge: Forge) -> None:
    forger = forge(CLUSTERED)
    share(forger, {FC2: FC1})
    forger.own_kind(FC2)["payloads"]["codebook"] = "float16"
    refuse(forger.write(), "which has none such of its own")


@pytest.mark.parametrize("alias", [{BIAS: "nothing"}, {BIAS: FC1}, {BIAS: BIAS}])
def test_alias_that_does_not_fit(alias: dict[str, str], forge: Forge) -> None:
    forger = forge()
    forger.manifest["aliases"] = alias
    refuse(forger.write(), "which does not fit")
