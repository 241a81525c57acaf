"""Reading an artifact: every check first, then the weights.

Order matters. Sizes and checksums of the files come before their content is looked at, and each
shape is compared with the bytes that are there before anything is allocated for it.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mmcompress.artifact.chain import check_payload, decode, layout, stages_of
from mmcompress.artifact.errors import ArtifactError
from mmcompress.artifact.manifest import MANIFEST_FILE, TENSORS_FILE, Manifest, parse
from mmcompress.artifact.skeleton import build_skeleton
from mmcompress.backbones.base import Backbone

STORED_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"


def read_manifest(folder: Path) -> Manifest:
    """The manifest, once both files and all assets are what it says they are.

    Raises:
        ArtifactError: a file is missing, damaged, foreign or outside the folder.
    """
    if not folder.is_dir():
        raise ArtifactError(folder, "is no folder", "give the folder that holds manifest.json")
    path = _inside(folder, MANIFEST_FILE)
    manifest = parse(path.read_bytes(), path)
    for name in manifest["assets"]:
        if not re.fullmatch(FILE_NAME, name) or name in (MANIFEST_FILE, TENSORS_FILE):
            raise ArtifactError(path, f"names an asset {name!r} that is no plain file name")
    tensors = _inside(folder, TENSORS_FILE)
    size, expected = tensors.stat().st_size, manifest["tensors"]["bytes"]
    if size != expected:
        raise ArtifactError(tensors, f"has {size} bytes where the manifest says {expected}")
    checksums = {TENSORS_FILE: manifest["tensors"]["sha256"], **manifest["assets"]}
    for name, checksum in checksums.items():
        file = _inside(folder, name)
        if file_checksum(file) != checksum:
            raise ArtifactError(file, "does not match its checksum in the manifest")
    return manifest


def read_skeleton(folder: Path, manifest: Manifest) -> Backbone:
    """The backbone on the meta device, once every tensor is found to fit it.

    Raises:
        ArtifactError: a tensor is missing, superfluous, or of another shape or dtype.
    """
    path = folder / MANIFEST_FILE
    backbone = build_skeleton(manifest, folder, path=path, on_meta=True)
    with open_tensors(folder) as tensors:
        _check_tensors(folder, manifest, backbone, tensors)
    return backbone


def read_backbone(folder: Path, manifest: Manifest) -> Backbone:
    """The backbone with its weights, dense and in evaluation mode.

    Raises:
        ArtifactError: as `read_skeleton`; or a payload does not decode.
    """
    read_skeleton(folder, manifest)
    path = folder / MANIFEST_FILE
    backbone = build_skeleton(manifest, folder, path=path, on_meta=False)
    skeleton = backbone.model.state_dict(keep_vars=True)
    state: dict[str, Tensor] = {}
    with open_tensors(folder) as tensors:
        for key, empty in skeleton.items():
            if key in manifest["aliases"]:
                continue
            if key in manifest["weights"]:
                value = _decode(folder, key, manifest["weights"][key], tensors)
            else:
                # The library maps the file into memory; the model must not depend on the file.
                value = tensors.get_tensor(key).clone()
            value = value.to(empty.dtype)
            # A Parameter is taken as it is, so that two names can share one.
            state[key] = nn.Parameter(value) if isinstance(empty, nn.Parameter) else value
    state |= {alias: state[key] for alias, key in manifest["aliases"].items()}
    backbone.model.load_state_dict(state, assign=True)
    left = [name for name, buffer in backbone.model.named_buffers() if buffer.is_meta]
    assert not left, f"structural methods must leave no buffer that is not saved: {left}"
    return backbone.eval()


@contextmanager
def open_tensors(folder: Path) -> Iterator[Any]:
    """`model.safetensors`, opened by its library, which checks header and offsets.

    Raises:
        ArtifactError: it is no safetensors file.
    """
    path = folder / TENSORS_FILE
    try:
        opened = safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise ArtifactError(path, f"is no valid safetensors file ({error})") from error
    with opened as tensors:
        yield tensors


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if path.resolve().parent != folder.resolve():
        raise ArtifactError(path, "points out of the artifact's folder")
    if not path.is_file():
        raise ArtifactError(path, "is missing, or no plain file")
    return path


def _check_tensors(folder: Path, manifest: Manifest, backbone: Backbone, tensors: Any) -> None:
    path, stored_in = folder / MANIFEST_FILE, folder / TENSORS_FILE
    skeleton = backbone.model.state_dict()
    weights, aliases = manifest["weights"], manifest["aliases"]
    for key in [*weights, *aliases]:
        if key not in skeleton:
            raise ArtifactError(path, f"lists {key}, which the model does not have")
    for alias, key in aliases.items():
        fits = key in skeleton and skeleton[key].shape == skeleton[alias].shape
        if alias in weights or key in aliases or not fits:
            raise ArtifactError(path, f"ties {alias} to {key}, which does not fit")
    dense = skeleton.keys() - weights.keys() - aliases.keys()
    parts = [part for weight in weights.values() for part in weight["payload"].items()]
    codebooks = {name for payload, name in parts if payload == "codebook"}  # may be shared
    payloads = [name for payload, name in parts if payload != "codebook"]
    for name in [*payloads, *codebooks]:
        if not re.fullmatch(FILE_NAME, name):
            raise ArtifactError(path, f"names a payload {name!r} that is no plain name")
    expected, present = dense | set(payloads) | codebooks, set(tensors.keys())
    if len(expected) != len(dense) + len(payloads) + len(codebooks):
        raise ArtifactError(path, "uses one tensor for two weights")
    for name in sorted(expected - present):
        raise ArtifactError(stored_in, f"misses the tensor {name}")
    for name in sorted(present - expected):
        raise ArtifactError(stored_in, f"holds a tensor {name} that the model does not have")
    halved = manifest["dense_dtype"] == "float16"
    for key in sorted(dense):
        _check_dense(stored_in, key, skeleton[key], tensors.get_slice(key), halved=halved)
    for key, weight in weights.items():
        shape = tuple(skeleton[key].shape)
        if tuple(weight["shape"]) != shape or skeleton[key].dtype != torch.float32:
            raise ArtifactError(
                path, f"gives {key} the shape {tuple(weight['shape'])}, the model has {shape}"
            )
        try:
            _check_weight(weight, tensors)
        except ValueError as error:
            raise ArtifactError(path, f"{key} does not fit its bytes: {error}") from error


def _check_dense(path: Path, key: str, empty: Tensor, stored: Any, *, halved: bool) -> None:
    shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
    if shape != tuple(empty.shape):
        raise ArtifactError(path, f"{key} has shape {shape}, the model has {tuple(empty.shape)}")
    expected = "F16" if halved and empty.dtype == torch.float32 else STORED_DTYPES[empty.dtype]
    if dtype != expected:
        raise ArtifactError(path, f"{key} is {dtype} where {expected} is expected")


def _check_weight(weight: Mapping[str, Any], tensors: Any) -> None:
    chain, payload = weight["chain"], weight["payload"]
    expected = layout(chain, weight["shape"])
    needed = {name for name, item in expected.items() if not item.optional}
    if not needed <= payload.keys() <= expected.keys():
        raise ValueError(f"payloads are {sorted(payload)}, expected {sorted(needed)}")
    foreign = stages_of(chain).get("zstd", {"of": {}})["of"].keys() - payload.keys()
    if foreign:
        raise ValueError(f"zstd names payloads that it does not have: {sorted(foreign)}")
    for name, tensor in payload.items():
        check_payload(chain, name, expected[name], tensors.get_slice(tensor))


def _decode(folder: Path, key: str, weight: Mapping[str, Any], tensors: Any) -> Tensor:
    payloads = {name: tensors.get_tensor(tensor) for name, tensor in weight["payload"].items()}
    try:
        return decode(weight["chain"], payloads, weight["shape"])
    except ValueError as error:
        raise ArtifactError(folder / TENSORS_FILE, f"{key} does not decode: {error}") from error
