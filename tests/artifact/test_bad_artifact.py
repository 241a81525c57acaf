"""Whatever is wrong with a folder, `load` says so with one error type and allocates nothing."""

import json
import pickle
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mmcompress.artifact.folder import Artifact
from mmcompress.format import reader as reader_module
from mmcompress.format.chain import Chain
from mmcompress.format.codecs import planes
from mmcompress.format.errors import ArtifactError
from mmcompress.format.manifest import sign
from mmcompress.format.reader import file_checksum, read_manifest
from mmcompress.format.version_2 import FIELDS, fingerprint

Forge = Callable[..., Any]

FC1 = "vision_model.encoder.layers.0.mlp.fc1.weight"
MLP = "vision_model.encoder.layers.0.mlp"
LOWRANK = "mmcompress.compression.lowrank.lowrank.LowRank"
BIAS = "vision_model.encoder.layers.0.mlp.fc1.bias"
EMBEDDING = "text_model.embeddings.token_embedding.weight"
FC2 = "vision_model.encoder.layers.0.mlp.fc2.weight"
OTHER = "vision_model.encoder.layers.1.mlp.fc1.weight"
BLOCKS = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
DENSE = "dense.float32.planes"
CLUSTERED = {FC1: "cluster", FC2: "cluster", OTHER: "cluster"}
KIND = {"steps": ["int4"], "chain": [], "payloads": {"codes": "float32"}}
PRUNED = {FC1: "pruned+int8", EMBEDDING: "pruned+cluster"}


def refuse(folder: Path, message: str) -> None:
    """Both readers refuse with `message`, which names the file and says what to do."""
    for read in (Artifact.load, Artifact.read):
        with pytest.raises(ArtifactError, match=message) as caught:
            read(folder)
        assert str(folder) in str(caught.value)
        assert ";" in str(caught.value)


def test_forged_artifacts_load_when_nothing_is_wrong(forge: Forge) -> None:
    Artifact.load(forge(PRUNED).write())


def test_missing_folder_and_files(forge: Forge, tmp_path: Path) -> None:
    refuse(tmp_path / "nowhere", "is no folder")
    folder = forge().folder
    for name in ("tokenizer.json", "model.safetensors", "manifest.json"):
        (folder / name).unlink()
        refuse(folder, f"{name}: is missing")


def test_truncated(forge: Forge) -> None:
    folder = forge(PRUNED).folder
    for name, message in [("model.safetensors", "bytes where"), ("manifest.json", "is no JSON")]:
        file = folder / name
        data = file.read_bytes()
        for length in (0, 7, len(data) // 2, len(data) - 1):
            file.write_bytes(data[:length])
            refuse(folder, message)
        file.write_bytes(data)


@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "tokenizer.json"])
def test_one_flipped_byte_anywhere(name: str, forge: Forge) -> None:
    folder = forge(PRUNED).folder
    file = folder / name
    data = file.read_bytes()
    for bit in range(8):
        for offset in range(bit, len(data), max(len(data) // 40, 1)):
            damaged = bytearray(data)
            damaged[offset] ^= 1 << bit
            file.write_bytes(damaged)
            with pytest.raises(ArtifactError):
                read_manifest(folder)
    file.write_bytes(data)
    Artifact.load(folder)


def test_newer_format(forge: Forge) -> None:
    forger = forge()
    forger.manifest["format_version"] = 4
    refuse(forger.sign(), "format version 4, newer than 3; upgrade mmcompress")


def test_older_format(forge: Forge) -> None:
    folder = forge().folder
    (folder / "manifest.json").write_text('{"format_version":1,"weights":{}}')
    refuse(folder, "format version 1, which is no longer read; save it again with this version")


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


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", "..", "", "a\\b", "x\n"])
def test_names_that_leave_the_folder(name: str, forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    kind = forger.own_kind(FC1)
    kind["payloads"][name] = kind["payloads"].pop("scale")
    refuse(forger.sign(), "payloads are .*, expected")
    forger.manifest["assets"] = {name: "0" * 64}
    refuse(forger.write(), "names an asset .* that is no plain file name")


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json", "tokenizer.json"])
def test_link_out_of_the_folder(name: str, forge: Forge, tmp_path: Path) -> None:
    folder = forge().folder
    (folder / name).rename(tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    refuse(folder, "points out of the artifact's folder")


def test_pickle_in_place_of_the_tensors(forge: Forge) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return pytest.fail, ("the pickle was executed",)

    forger = forge()
    file = forger.folder / "model.safetensors"
    file.write_bytes(pickle.dumps(Bomb()))
    refuse(forger.folder, "model.safetensors: has .* bytes where")
    refuse(forger.sign(), "is no valid safetensors file")
    torch.save({"state": torch.zeros(3)}, file)
    refuse(forger.sign(), "is no valid safetensors file")


def test_safetensors_header_that_lies(forge: Forge) -> None:
    forger = forge()
    file = forger.folder / "model.safetensors"
    save_file({"x": np.zeros(4, np.float32)}, file)
    file.write_bytes(file.read_bytes().replace(b'"shape":[4]', b'"shape":[9]'))
    refuse(forger.sign(), "is no valid safetensors file")
    for offsets in ("[0,15]", "[0,17]", "[-1,15]", "[4,16]", "[16,0]", f"[0,{2**70}]"):
        save_file({"x": np.zeros(4, np.float32)}, file)
        header = file.read_bytes()[8:-16].replace(b"[0,16]", offsets.encode()).strip()
        file.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        refuse(forger.sign(), "is no valid safetensors file")
    file.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    refuse(forger.sign(), "is no valid safetensors file")


@pytest.mark.parametrize("adapter", ["os", "base", "images", "../x", "hf_clip.x", "", "HF"])
def test_adapter_that_is_not_ours(adapter: str, forge: Forge) -> None:
    forger = forge()
    forger.manifest["adapter"] = adapter
    refuse(forger.sign(), "is no backbone of this mmcompress")


@pytest.mark.parametrize(
    ("edit", "version"),
    [
        ("os.system", 1),
        ("mmcompress.compression.lowrank.lowrank.LowRank", 1),
        ("mmcompress.modules.lowrank.factorise", 1),
        ("replay", 1),
        ("", 1),
        ("lowrank", 0),
        ("lowrank", 2),
        ("lowrank", -1),
        ("lowrank", 2**62),
    ],
)
def test_edit_that_is_not_ours(edit: str, version: int, forge: Forge) -> None:
    forger = forge()
    forger.manifest["structure"] = [
        {"edit": edit, "version": version, "step": "x", "modules": {MLP: {"rank": 2}}}
    ]
    refuse(forger.sign(), "is no edit of this mmcompress; install the version of mmcompress that")


@pytest.mark.parametrize(
    ("edit", "fields", "message"),
    [
        ("lowrank", {}, r"mlp has \[\] where \['rank'\] are expected"),
        ("lowrank", {"rank": 2, "layer": 1}, "where .'rank'. are expected"),
        ("cut", {"of": "head_dims"}, "where .'kept'. are expected"),
        ("lowrank", {"rank": 2}, "describes a model that cannot be built"),
        ("cut", {"kept": "all"}, "describes a model that cannot be built"),
        ("cut", {"kept": 10**5}, "whose tensors are not those that were stored"),
        ("hashed_embedding", {"buckets": 2, "hashes": 1, "seed": 0}, "that cannot be built"),
        ("share_blocks", {"groups": [[0, 1]], "transform": "none"}, "that cannot be built"),
        ("quantized_input", {"bits": 8, "smoothing": None}, "that cannot be built"),
    ],
)
def test_edit_that_does_not_fit(
    edit: str, fields: dict[str, Any], message: str, forge: Forge
) -> None:
    forger = forge()
    forger.manifest["structure"] = [
        {"edit": edit, "version": 1, "step": "x", "modules": {MLP: fields}}
    ]
    refuse(forger.sign(), message)


def as_version_2(forger: Any, structure: Any) -> Path:
    """The forged artifact as mmcompress 0.1 would have written it."""
    forger.sign()
    now, file = forger.manifest, forger.manifest["files"][0]
    old = {key: now[key] for key in FIELDS.keys() & now.keys()} | {
        "format_version": 2,
        "structure": structure,
        "skeleton": fingerprint(forger.entries.values()),
        "weights": forger.rows,
        "reasons": {},
        "tensors": {"bytes": file["bytes"], "sha256": file["sha256"]},
    }
    (forger.folder / "manifest.json").write_bytes(sign(old))
    return forger.folder


def test_version_2_is_read(forge: Forge) -> None:
    forger = forge()
    expected = Artifact.load(forger.folder).backbone.model.state_dict()
    loaded = Artifact.load(as_version_2(forger, []))
    assert loaded.manifest["format_version"] == 3
    assert all(
        torch.equal(expected[key], v) for key, v in loaded.backbone.model.state_dict().items()
    )


@pytest.mark.parametrize(
    "method",
    [
        "os.system",
        "torch.nn.Linear",
        "lowrank",
        "mmcompress.compression.nothing.Here",
        "mmcompress.compression.base.Compressor",
        "mmcompress.compression.pruning.magnitude.Magnitude",
        "mmcompress.compression.pruning.magnitude.torch",
        "mmcompress.backbones.hf.clip.HFClip",
        "mmcompress.compression.....os.system",
    ],
)
def test_method_of_version_2_that_is_not_ours(method: str, forge: Forge) -> None:
    folder = as_version_2(forge(), [{"method": method, "step": "x", "modules": {}}])
    refuse(folder, "is no structural method of mmcompress 0.1")


@pytest.mark.parametrize(
    "entry",
    [
        {},
        None,
        {"method": 1, "step": "x", "modules": {}},
        {"method": ["os"], "step": "x", "modules": {}},
        {"edit": "lowrank", "step": "x", "modules": {}},
        {"method": LOWRANK, "step": "x"},
        {"method": LOWRANK, "step": "x", "modules": {}, "edit": "cut"},
    ],
)
def test_structure_of_version_2_of_another_form(entry: Any, forge: Forge) -> None:
    message = r"structure\[0\](: method of the wrong type| does not have exactly)"
    refuse(as_version_2(forge(), [entry]), message)


def test_structure_of_version_2_that_is_no_list(forge: Forge) -> None:
    folder = as_version_2(forge(), {})
    refuse(folder, "structure of the wrong type")
    manifest = json.loads((folder / "manifest.json").read_bytes())
    del manifest["structure"]
    (folder / "manifest.json").write_bytes(sign(manifest))
    refuse(folder, "does not have exactly the fields")


def test_another_model_than_that_of_version_2(forge: Forge) -> None:
    folder = as_version_2(forge(), [])
    manifest = json.loads((folder / "manifest.json").read_bytes())
    for change, message in [
        ({"skeleton": "0" * 64}, "whose tensors are not those that were stored; install the libr"),
        ({"weights": {"other": [0]}}, "lists other, which the model does not have"),
        ({"weights": {FC1: {}}}, "weights holds values that are not list"),
        ({"reasons": {"int4: small": "x"}}, "reasons holds values that are not list"),
        ({"reasons": {"int4: small": [1]}}, "reasons.* holds values that are not str"),
        ({"tensors": {}}, "tensors does not have exactly the fields"),
    ]:
        (folder / "manifest.json").write_bytes(sign(manifest | change))
        refuse(folder, message)


def test_spec_and_assets_that_the_adapter_refuses(forge: Forge) -> None:
    forger = forge()
    (forger.folder / "tokenizer.json").write_text("{}")
    forger.manifest["assets"]["tokenizer.json"] = file_checksum(forger.folder / "tokenizer.json")
    refuse(forger.sign(), "describes a model that cannot be built")
    forger.manifest["spec"] = {}
    refuse(forger.sign(), "describes a model that cannot be built")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "does not have exactly the fields"),
        ({"tensors": []}, "tensors of the wrong type"),
        ({"tensors": {"x": 1}}, "tensors has int at x"),
        ({"tensors": {"x": []}}, "gives x no form and rows"),
        ({"tensors": {"x": [0]}}, "gives x no form and rows"),
        ({"tensors": {"x": [0, 1]}}, "gives x no rows"),
        ({"tensors": {"x": [-1, ""]}}, "gives x no form that is there"),
        ({"tensors": {"x": [True, ""]}}, "gives x no form that is there"),
        ({"tensors": {"x": [10**6, ""]}}, "gives x no form that is there"),
        ({"tensors": {"x": [0, "0"]}}, "gives x numbers that make no names"),
        ({"tensors": {"*": {"*": [0, "0"]}}}, "numbers that make no names"),
        ({"tensors": {"*": [0, ""]}}, "numbers that make no names"),
        ({"tensors": {"*": [0, "01"]}}, "numbers that make no names"),
        ({"tensors": {"*": [0, "1-"]}}, "numbers that make no names"),
        ({"tensors": {"*": [0, "0-999999999"]}}, "too many for these files"),
        ({"tensors": {"*": [0, "0,0"]}}, "names 0 twice"),
        ({"tensors": {"*": [0, "0"]}}, "files holds .* tensors, and tensors 1"),
        ({"tensors": {"x": [0, {"": {}}]}}, "gives x no list as a row"),
        ({"tensors": {"x": [0, {"": []}]}}, "gives x no kind that is there"),
        ({"tensors": {"x": [0, {"": [0]}]}}, "gives x no kind that is there"),
        ({"tensors": {"x": [0, {"": [-1]}]}, "kinds": [KIND]}, "gives x no kind that is there"),
        ({"tensors": {"x": [0, {"": [True]}]}, "kinds": [KIND]}, "gives x no kind that is there"),
        ({"forms": [None]}, r"forms\[0\] is not shape"),
        ({"forms": [{"shape": [-1], "modality": "x"}]}, r"forms\[0\] is not shape"),
        ({"forms": [{"shape": [1]}]}, r"forms\[0\] is not shape"),
        ({"forms": [{"shape": [1], "modality": "x", "dtype": "F8"}]}, r"forms\[0\] is not shape"),
        ({"codecs": {"planes": "1"}}, "codecs holds values that are not int"),
        ({"files": []}, "files names 0 files of tensors"),
        ({"files": [{}]}, r"files\[0\] does not have exactly"),
        ({"kinds": [None]}, r"kinds\[0\] is not steps, chain and payloads"),
        ({"kinds": [KIND, {}]}, r"kinds\[1\] is not steps, chain and payloads"),
        ({"kinds": [KIND | {"steps": [1]}]}, r"kinds\[0\] is not steps, chain and payloads"),
        ({"kinds": [KIND | {"chain": ["x"]}]}, r"kinds\[0\] is not steps, chain and payloads"),
        ({"kinds": [KIND | {"payloads": {"codes": "int64"}}]}, r"kinds\[0\] is not"),
        ({"kinds": [KIND | {"payloads": {"codes": []}}]}, r"kinds\[0\] is not"),
        ({"dense": {"bytes": 1, "parameters": 0, "dtype": "float32"}}, "states no bytes"),
        ({"dense_dtype": "int8"}, "neither float32 nor float16"),
        ({"aliases": {"a": 1}}, "aliases holds values that are not str"),
        ({"structure": [{}]}, r"structure\[0\] does not have exactly"),
        ({"format_version": 0}, "is no manifest of mmcompress"),
        ({"format_version": True}, "is no manifest of mmcompress"),
        ({"format_version": "2"}, "is no manifest of mmcompress"),
    ],
)
def test_manifest_of_another_form(change: dict[str, Any], message: str, forge: Forge) -> None:
    forger = forge()
    forger.manifest |= change
    refuse(forger.sign(), message)


def test_json_that_is_no_manifest(forge: Forge) -> None:
    folder = forge().folder
    file = folder / "manifest.json"
    text = file.read_text()
    for other, message in [
        ("[" * 10**5, "is no JSON"),
        ("[1]", "is no manifest"),
        ("{}", "is no manifest"),
        ('{"format_version":3,"x":NaN}', "holds what no manifest holds"),
        (" " + text, "does not match its checksum"),
        ('{"adapter":"x",' + text[1:], "does not match its checksum"),
    ]:
        file.write_text(other)
        refuse(folder, message)
