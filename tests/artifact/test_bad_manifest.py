"""Manifests that name adapters, edits, methods and fields which there are not are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from mmcompress.artifact.folder import Artifact
from mmcompress.format.manifest import sign
from mmcompress.format.reader import file_checksum
from mmcompress.format.version_2 import FIELDS, fingerprint
from tests.artifact.refusal import FC1, KIND, LOWRANK, MLP, Forge, refuse


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
