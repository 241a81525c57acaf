"""Whatever is wrong with a folder, `load` says so with one error type and allocates nothing."""

import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmcompress.artifact import load as load_module
from mmcompress.artifact.artifact import Artifact
from mmcompress.artifact.codecs import zstd
from mmcompress.artifact.errors import ArtifactError

Forge = Callable[..., Any]

FC1 = "vision_model.encoder.layers.0.mlp.fc1.weight"
BIAS = "vision_model.encoder.layers.0.mlp.fc1.bias"
EMBEDDING = "text_model.embeddings.token_embedding.weight"
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
                load_module.read_manifest(folder)
    file.write_bytes(data)
    Artifact.load(folder)


def test_newer_format(forge: Forge) -> None:
    forger = forge()
    forger.manifest["format_version"] = 2
    refuse(forger.sign(), "format version 2, newer than 1; upgrade mmcompress")


@pytest.mark.parametrize("key", [BIAS, "t0.codes"])
def test_missing_tensor(key: str, forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    del forger.tensors[key]
    refuse(forger.write(), f"misses the tensor {key}")


def test_extra_tensor(forge: Forge) -> None:
    forger = forge()
    forger.tensors["stowaway"] = torch.zeros(3)
    refuse(forger.write(), "holds a tensor stowaway")


def test_weight_that_the_model_does_not_have(forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    forger.manifest["weights"]["other.weight"] = forger.manifest["weights"].pop(FC1)
    refuse(forger.write(), "lists other.weight, which the model does not have")


def test_dense_tensor_of_another_shape_or_dtype(forge: Forge) -> None:
    forger = forge()
    forger.tensors[BIAS] = torch.zeros(65)
    refuse(forger.write(), r"has shape \(65,\), the model has \(64,\)")
    forger.tensors[BIAS] = torch.zeros(64, dtype=torch.float16)
    refuse(forger.write(), "is F16 where F32 is expected")


def test_shape_that_claims_more_than_its_bytes(forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    forger.manifest["weights"][FC1]["shape"] = [10**9, 32]
    refuse(forger.write(), r"the shape \(1000000000, 32\), the model has \(64, 32\)")


def test_model_that_claims_more_than_its_bytes(forge: Forge) -> None:
    """The shape agrees with the model, of 128 TB; only the bytes are not there."""
    forger = forge({EMBEDDING: "int4"})
    forger.manifest["spec"]["config"]["text_config"]["vocab_size"] = 10**12
    forger.manifest["weights"][EMBEDDING]["shape"] = [10**12, 32]
    refuse(forger.write(), f"{EMBEDDING} does not fit its bytes")


def claim_a_bomb(forger: Any, rows: int) -> Path:
    """Codes of `rows` x 32 bytes in a frame of 18 bytes that says so."""
    size = rows * 32
    frame = b"\x28\xb5\x2f\xfd\xc0\x50" + size.to_bytes(8, "little") + b"\x43\0\0\0"
    forger.manifest["spec"]["config"]["text_config"]["vocab_size"] = rows
    weight = forger.manifest["weights"][EMBEDDING]
    weight["shape"] = [rows, 32]
    weight["chain"] = [
        {"codec": "quantise", "bits": 8, "group_size": 32},
        {"codec": "pack", "bits": 8},
        {"codec": "zstd", "of": {"codes": "uint8", "scale": "float16"}},
    ]
    forger.tensors["t0.codes"] = torch.frombuffer(bytearray(frame), dtype=torch.uint8)
    scales = zstd.compress(torch.ones(rows, dtype=torch.float16))
    forger.tensors["t0.scale"] = scales
    return forger.write()


def test_payload_that_claims_more_than_it_can_hold(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = claim_a_bomb(forge({EMBEDDING: "int8"}), rows=10**6)
    monkeypatch.delattr(load_module, "decode")
    tracemalloc.start()
    refuse(folder, "a frame of 18 bytes cannot hold 32000000")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_payload_that_holds_another_size_than_its_shape(forge: Forge) -> None:
    forger = forge({EMBEDDING: "int8"})
    claim_a_bomb(forger, rows=48)
    forger.tensors["t0.codes"] = zstd.compress(torch.zeros(48 * 32 + 1, dtype=torch.uint8))
    refuse(forger.write(), "its frame states 1537 bytes where 1536 are expected")


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
    forger.manifest["weights"][name]["chain"][stage] |= fields
    refuse(forger.write(), message)


def test_stage_without_its_payload(forge: Forge) -> None:
    forger = forge({FC1: "int8"})
    forger.manifest["weights"][FC1]["chain"].insert(1, {"codec": "bitmask", "kept": 1})
    refuse(forger.write(), "payloads are .*, expected .*mask")


def test_index_past_the_end_of_its_codebook(forge: Forge) -> None:
    forger = forge({EMBEDDING: "cluster"})
    weight = forger.manifest["weights"][EMBEDDING]
    weight["chain"] = [
        {"codec": "codebook", "block_size": 1, "entries": 5},
        {"codec": "pack", "bits": 8},
    ]
    forger.tensors["t0.codebook"] = torch.zeros(5, 1)
    forger.tensors["t0.indices"] = torch.full((48 * 32,), 5, dtype=torch.uint8)
    with pytest.raises(ArtifactError, match="index points past the end of its codebook"):
        Artifact.load(forger.write())


def test_one_tensor_for_two_weights(forge: Forge) -> None:
    forger = forge({FC1: "int4", FC1.replace("layers.0", "layers.1"): "int4"})
    forger.manifest["weights"][FC1]["payload"]["scale"] = "t1.scale"
    del forger.tensors["t0.scale"]
    refuse(forger.write(), "uses one tensor for two weights")


@pytest.mark.parametrize("alias", [{BIAS: "nothing"}, {BIAS: FC1}, {BIAS: BIAS}])
def test_alias_that_does_not_fit(alias: dict[str, str], forge: Forge) -> None:
    forger = forge()
    forger.manifest["aliases"] = alias
    refuse(forger.write(), "which does not fit")


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/passwd", "..", "", "a\\b", "x\n"])
def test_names_that_leave_the_folder(name: str, forge: Forge) -> None:
    forger = forge({FC1: "int4"})
    payload = forger.manifest["weights"][FC1]["payload"]
    forger.tensors[name] = forger.tensors.pop(payload["scale"])
    payload["scale"] = name
    refuse(forger.write(), "names a payload .* that is no plain name")
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
    save_file({"x": torch.zeros(4)}, file)
    file.write_bytes(file.read_bytes().replace(b'"shape":[4]', b'"shape":[9]'))
    refuse(forger.sign(), "is no valid safetensors file")
    file.write_bytes((2**60).to_bytes(8, "little") + b"{}")
    refuse(forger.sign(), "is no valid safetensors file")


@pytest.mark.parametrize("adapter", ["os", "base", "images", "../x", "hf_clip.x", "", "HF"])
def test_adapter_that_is_not_ours(adapter: str, forge: Forge) -> None:
    forger = forge()
    forger.manifest["adapter"] = adapter
    refuse(forger.sign(), "is no backbone of this mmcompress")


@pytest.mark.parametrize(
    "method",
    [
        "os.system",
        "torch.nn.Linear",
        "mmcompress.compression.nothing.Here",
        "mmcompress.compression.base.Compressor",
        "mmcompress.compression.base.Any",
        "mmcompress.compression.pruning.magnitude.Magnitude",
        "mmcompress.compression.pruning.magnitude.torch",
        "mmcompress.backbones.hf_clip.HFClip",
        "mmcompress.compression.....os.system",
    ],
)
def test_method_that_is_not_ours(method: str, forge: Forge) -> None:
    forger = forge()
    forger.manifest["structure"] = [{"method": method, "step": "x", "modules": {}}]
    refuse(forger.sign(), "is no structural method of this mmcompress")


def test_spec_and_assets_that_the_adapter_refuses(forge: Forge) -> None:
    forger = forge()
    (forger.folder / "tokenizer.json").write_text("{}")
    forger.manifest["assets"]["tokenizer.json"] = load_module.file_checksum(
        forger.folder / "tokenizer.json"
    )
    refuse(forger.sign(), "describes a model that cannot be built")
    forger.manifest["spec"] = {}
    refuse(forger.sign(), "describes a model that cannot be built")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": 1}, "does not have exactly the fields"),
        ({"weights": []}, "weights of the wrong type"),
        ({"dense": {"bytes": 1, "parameters": 0, "dtype": "float32"}}, "states no bytes"),
        ({"dense_dtype": "int8"}, "neither float32 nor float16"),
        ({"aliases": {"a": 1}}, "aliases holds values that are not str"),
        ({"structure": [{}]}, r"structure\[0\] does not have exactly"),
        ({"format_version": 0}, "is no manifest of mmcompress"),
        ({"format_version": True}, "format_version of the wrong type"),
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
        ('{"format_version":1,"x":NaN}', "holds what no manifest holds"),
        (" " + text, "does not match its checksum"),
        ('{"adapter":"x",' + text[1:], "does not match its checksum"),
    ]:
        file.write_text(other)
        refuse(folder, message)
