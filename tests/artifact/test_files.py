"""Artifacts of several files: the same model, the same checks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.format.errors import ArtifactError
from mmcompress.format.manifest import sign
from mmcompress.format.reader import decode, read, read_manifest
from mmcompress.functional.lookup import lookup

Save = Callable[..., Artifact]
EncodeAs = Callable[[str, Tensor], Encoding]

FC1 = "vision_model.encoder.layers.0.mlp.fc1.weight"
OTHER = "vision_model.encoder.layers.1.mlp.fc1.weight"
EMBEDDING = "text_model.embeddings.token_embedding.weight"


@pytest.fixture
def several(backbone: HFClip, encode_as: EncodeAs, save_artifact: Save) -> Artifact:
    """Some ten files; a codebook lies in another file than one of the weights that share it."""
    state = backbone.model.state_dict()
    encodings = {key: encode_as("blocks", state[key]) for key in (FC1, OTHER)}
    codebook = encodings[FC1].tensors["codebook"]
    encodings[OTHER].tensors["codebook"] = codebook
    state[OTHER].copy_(lookup(encodings[OTHER].tensors["indices"], codebook, state[OTHER].shape))
    encodings[EMBEDDING] = encode_as("pruned+binary", state[EMBEDDING])
    return save_artifact(backbone, encodings=encodings, most_bytes=20_000)


def test_the_model_comes_back(several: Artifact, backbone: HFClip) -> None:
    names = [file["name"] for file in several.manifest["files"]]
    assert len(names) > 5
    assert names == [
        f"model-{i:05}-of-{len(names):05}.safetensors" for i in range(1, len(names) + 1)
    ]
    files = sorted(path.name for path in several.folder.iterdir())
    assert files == ["manifest.json", *names, "tokenizer.json"]
    loaded = Artifact.load(several.folder).backbone.model.state_dict()
    for key, tensor in backbone.model.state_dict().items():
        assert torch.equal(loaded[key], tensor), key
    assert sum(row.bytes for row in several.ledger()) == several.bytes
    assert [row.tensor for row in several.ledger() if row.payload == "header"] == names


def test_no_file_is_longer_than_asked_for(several: Artifact) -> None:
    largest = 32 * 3 * 16 * 16 * 4  # the patch embedding alone is longer
    for file in several.manifest["files"]:
        assert file["bytes"] < (20_000 if file["tensors"] > 1 else largest) + 1000


def test_what_is_stored_can_be_read_without_floats(several: Artifact, backbone: HFClip) -> None:
    found = {weight.name: weight for weight in read(several.folder)}
    state = backbone.model.state_dict()
    assert list(found) == sorted(state)
    weight = found[EMBEDDING]
    assert (weight.codec, weight.bits, weight.group_size) == ("quantize", 1, 32)
    assert weight.steps == ("prune", "binary")
    assert weight.codes.dtype == np.int8
    assert weight.codes.shape == (48, 32)
    assert weight.scale is not None
    assert weight.mask is not None
    assert np.array_equal(weight.mask, state[EMBEDDING].numpy() != 0)
    assert weight.column_scale is not None
    by_hand = (weight.codes + np.float32(0.5)) * weight.scale * weight.column_scale * weight.mask
    assert np.array_equal(by_hand, state[EMBEDDING].numpy())
    assert found[OTHER].codebook is not None
    assert np.array_equal(found[OTHER].codebook, found[FC1].codebook)
    assert found[OTHER].codes.shape == (64, 8)
    assert found["logit_scale"].codec == "dense"
    for key, stored in found.items():
        assert np.array_equal(decode(stored), state[key].numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.reverse(), "files names .* no files of tensors"),
        (lambda files: files.pop(), "files names .* no files of tensors"),
        (lambda files: files.append(files[0]), "files names .* no files of tensors"),
        (lambda files: files[1].update(name="../x"), "files names .* no files of tensors"),
        (lambda files: files[1].update(name="manifest.json"), "files names .* no files of tensors"),
        (lambda files: files[1].update(tensors=-1), "files states a number below zero"),
        (lambda files: files[1].update(bytes=-1), "files states a number below zero"),
        (lambda files: files[1].update(bytes=1), "bytes where the manifest says 1"),
        (lambda files: files[1].update(tensors=10**9), "files holds .* tensors, and tensors "),
        (lambda files: files[1].update(sha256="0" * 64), "does not match its checksum"),
        (lambda files: files[1].update(extra=1), r"files\[1\] does not have exactly"),
        (lambda files: files[1].update(tensors=True), r"files\[1\]: tensors of the wrong type"),
        (lambda files: files.clear(), "files names 0 files of tensors"),
    ],
)
def test_an_index_that_lies(
    change: Callable[[list[Any]], object], message: str, several: Artifact
) -> None:
    path = several.folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    change(manifest["files"])
    path.write_bytes(sign(manifest))
    for refuse in (Artifact.load, Artifact.read):
        with pytest.raises(ArtifactError, match=message):
            refuse(several.folder)


def test_tensors_that_are_said_to_lie_in_another_file(several: Artifact) -> None:
    path = several.folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    first, second = manifest["files"][:2]
    first["tensors"], second["tensors"] = first["tensors"] - 1, second["tensors"] + 1
    path.write_bytes(sign(manifest))
    with pytest.raises(ArtifactError, match=r"does not (fit|decode)|misses the tensor|add up"):
        Artifact.load(several.folder)


def test_every_file_is_checked(several: Artifact) -> None:
    for file in several.manifest["files"]:
        path = several.folder / file["name"]
        data = path.read_bytes()
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(ArtifactError, match=f"{path.name}: does not match its checksum"):
            read_manifest(several.folder)
        path.unlink()
        with pytest.raises(ArtifactError, match=f"{path.name}: is missing"):
            read_manifest(several.folder)
        path.write_bytes(data)
    assert read_manifest(several.folder) == several.manifest


def test_a_link_out_of_the_folder(several: Artifact, tmp_path: Path) -> None:
    path = several.folder / several.manifest["files"][1]["name"]
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="points out of the artifact's folder"):
        read_manifest(several.folder)
