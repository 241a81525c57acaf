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
from safetensors import safe_open
from torch import Tensor, nn

from mmcompress.artifact.bounds import check_values
from mmcompress.artifact.skeleton import UPGRADE, Skeleton, build_skeleton
from mmcompress.backbones.base import Backbone
from mmcompress.format.bundles import (
    Place,
    bundle_names,
    bundle_sizes,
    check_bundle,
    fingerprint,
    open_bundles,
    place_dense,
)
from mmcompress.format.chain import (
    check_payload,
    decode,
    frames_of,
    layout,
    view_payload,
)
from mmcompress.format.codecs import planes
from mmcompress.format.errors import ArtifactError, refusing
from mmcompress.format.manifest import (
    MANIFEST_FILE,
    TENSORS_FILE,
    Manifest,
    most_of_manifest,
    parse,
)
from mmcompress.format.table import Weight, payload_bytes, read_table
from mmcompress.functional.finite import describe_not_finite
from mmcompress.system.mapped import mapped
from mmcompress.system.memory import large_blocks_apart

PAYLOADS = "payloads"
"""The tensor that holds all payloads of encoded weights."""

COMPRESS_AGAIN = "compress again, from a model that is finite"

LONGEST_HEADER = 2**16
"""Bytes of the header of `model.safetensors`, which names a dozen tensors."""

FILE_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}"


def read_manifest(folder: Path) -> Manifest:
    """The manifest, once both files and all assets are what it says they are.

    Raises:
        ArtifactError: a file is missing, damaged, foreign or outside the folder.
    """
    with refusing(folder, "cannot be read"):  # a loop of links, say, or no permission
        return _read_manifest(folder)


def _read_manifest(folder: Path) -> Manifest:
    if not folder.is_dir():
        raise ArtifactError(folder, "is no folder", "give the folder that holds manifest.json")
    path, tensors = _inside(folder, MANIFEST_FILE), _inside(folder, TENSORS_FILE)
    size = path.stat().st_size
    if size > most_of_manifest(tensors.stat().st_size):
        raise ArtifactError(path, f"has {size:,} bytes, far more than its tensors explain")
    manifest = parse(path.read_bytes(), path)
    for name in manifest["assets"]:
        if not re.fullmatch(FILE_NAME, name) or name in (MANIFEST_FILE, TENSORS_FILE):
            raise ArtifactError(path, f"names an asset {name!r} that is no plain file name")
    size, expected = tensors.stat().st_size, manifest["tensors"]["bytes"]
    if size != expected:
        raise ArtifactError(tensors, f"has {size} bytes where the manifest says {expected}")
    checksums = {TENSORS_FILE: manifest["tensors"]["sha256"], **manifest["assets"]}
    for name, checksum in checksums.items():
        file = _inside(folder, name)
        if file_checksum(file) != checksum:
            raise ArtifactError(file, "does not match its checksum in the manifest")
    return manifest


def read_skeleton(folder: Path, manifest: Manifest, own: Skeleton | None = None) -> Backbone:
    """The backbone on the meta device, once every tensor is found to fit it.

    Raises:
        ArtifactError: a tensor is missing, superfluous, or of another shape or dtype.
    """
    path = folder / MANIFEST_FILE
    backbone = build_skeleton(manifest, folder, path=path, on_meta=True, own=own)
    with open_tensors(folder) as tensors:
        check_tensors(folder, manifest, backbone.model.state_dict(), tensors)
    return backbone


@large_blocks_apart()
def read_backbone(
    folder: Path, manifest: Manifest, own: Skeleton | None = None, *, in_file: bool = False
) -> Backbone:
    """The backbone with its weights, dense and in evaluation mode.

    Args:
        in_file: large weights lie in a temporary file, see `mmcompress.system.mapped`.
    Raises:
        ArtifactError: as `read_skeleton`; or a payload does not decode.
    """
    read_skeleton(folder, manifest, own)
    path = folder / MANIFEST_FILE
    backbone = build_skeleton(manifest, folder, path=path, on_meta=False, own=own)
    skeleton = backbone.model.state_dict(keep_vars=True)
    with open_tensors(folder) as tensors:
        values = _finite(folder, skeleton, read_values(folder, manifest, skeleton, tensors))
        state = mapped(values)[0] if in_file else dict(values)
    for key, value in state.items():
        # A Parameter is taken as it is, so that two names can share one.
        state[key] = nn.Parameter(value) if isinstance(skeleton[key], nn.Parameter) else value
    state |= {alias: state[key] for alias, key in manifest["aliases"].items()}
    backbone.model.load_state_dict(state, assign=True)
    left = [name for name, buffer in backbone.model.named_buffers() if buffer.is_meta]
    if left:
        raise ArtifactError(path, f"describes a model whose {left} are in no file", UPGRADE)
    return backbone.eval()


def dense_places(manifest: Manifest, state: Mapping[str, Tensor]) -> dict[str, Place]:
    """Where the tensors lie that are neither encoded nor stored under another name.

    Args:
        manifest: of the artifact.
        state: of the model, on any device.
    """
    elsewhere = {*manifest["weights"], *manifest["aliases"]}
    return place_dense(state, elsewhere, halved=manifest["dense_dtype"] == "float16")


@contextmanager
def open_tensors(folder: Path) -> Iterator[Any]:
    """`model.safetensors`, opened by its library, which checks header and offsets.

    Raises:
        ArtifactError: it is no safetensors file.
    """
    path = folder / TENSORS_FILE
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > LONGEST_HEADER:
        raise ArtifactError(path, f"is no valid safetensors file (a header of {header:,} bytes)")
    with refusing(path, "is no valid safetensors file"):
        opened = safe_open(path, framework="pt")
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


def check_tensors(
    folder: Path, manifest: Manifest, skeleton: Mapping[str, Tensor], tensors: Any
) -> None:
    """Every tensor of the model is there, and nothing else, each as long as it must be.

    Args:
        folder, manifest: of the artifact.
        skeleton: state of the model, on any device.
        tensors: the open file.
    Raises:
        ArtifactError: it is not so.
    """
    path = folder / MANIFEST_FILE
    rows, aliases = manifest["weights"], manifest["aliases"]
    for key in [*rows, *aliases]:
        if key not in skeleton:
            raise ArtifactError(path, f"lists {key}, which the model does not have")
    for alias, key in aliases.items():
        fits = key in skeleton and skeleton[key].shape == skeleton[alias].shape
        if alias in rows or key in aliases or not fits:
            raise ArtifactError(path, f"ties {alias} to {key}, which does not fit")
    if fingerprint(skeleton) != manifest["skeleton"]:
        problem = "describes a model whose tensors are not those that were stored"
        raise ArtifactError(path, problem, "install the library versions that it names")
    own = {key: tensor for key, tensor in skeleton.items() if key not in aliases}
    with refusing(path, "describes a model that is too large"):
        check_values(own, manifest["tensors"]["bytes"])
    bundles = _find_bundles(folder, manifest, skeleton, set(tensors.keys()))
    for name, (dtype, size) in bundles.items():
        with refusing(folder / TENSORS_FILE, f"{name} does not fit"):
            check_bundle(name, dtype, size, tensors.get_slice(name))
    if rows:
        _check_payloads(folder, manifest, skeleton, tensors.get_slice(PAYLOADS))


def _find_bundles(
    folder: Path, manifest: Manifest, skeleton: Mapping[str, Tensor], present: set[str]
) -> dict[str, tuple[torch.dtype, int]]:
    """Name of each bundle → its dtype and how many values it must hold.

    Raises:
        ArtifactError: the file holds other tensors than these and the payloads.
    """
    bundles = {}
    for dtype, size in bundle_sizes(dense_places(manifest, skeleton).values()).items():
        plain, compressed = bundle_names(dtype)
        bundles[compressed if compressed in present else plain] = (dtype, size)
    expected = {*bundles, *([PAYLOADS] if manifest["weights"] else [])}
    for name in sorted(expected - present):
        raise ArtifactError(folder / TENSORS_FILE, f"misses the tensor {name}")
    for name in sorted(present - expected):
        problem = f"holds a tensor {name} that the model does not have"
        raise ArtifactError(folder / TENSORS_FILE, problem)
    return bundles


def _check_payloads(
    folder: Path, manifest: Manifest, skeleton: Mapping[str, Tensor], stored: Any
) -> None:
    path = folder / MANIFEST_FILE
    weights = read_table(manifest["kinds"], manifest["weights"])
    dtype, shape, size = stored.get_dtype(), tuple(stored.get_shape()), payload_bytes(weights)
    if dtype != "U8" or shape != (size,):
        problem = f"{PAYLOADS} is {dtype} {shape}, the manifest's lengths add up to U8 {(size,)}"
        raise ArtifactError(folder / TENSORS_FILE, problem)
    for key in weights:
        if skeleton[key].dtype != torch.float32:
            raise ArtifactError(path, f"encodes {key}, which is no float32 in the model")
        with refusing(path, f"{key} does not fit its bytes"):
            _check_weight(key, weights, skeleton, stored)


def _check_weight(
    key: str, weights: Mapping[str, Weight], skeleton: Mapping[str, Tensor], stored: Any
) -> None:
    chain, parts = weights[key].chain, weights[key].parts
    expected = layout(chain, skeleton[key].shape)
    needed = {name for name, item in expected.items() if not item.optional}
    if not needed <= parts.keys() <= expected.keys():
        raise ValueError(f"payloads are {sorted(parts)}, expected {sorted(needed)}")
    foreign = frames_of(chain).keys() - parts.keys()
    if foreign:
        raise ValueError(f"planes names payloads that it does not have: {sorted(foreign)}")
    for name, part in parts.items():
        if part.owner != key:
            theirs = weights[part.owner].chain
            same = layout(theirs, skeleton[part.owner].shape)[name] == expected[name]
            if not same or frames_of(theirs).get(name) != frames_of(chain).get(name):
                raise ValueError(f"it shares the {name} of {part.owner}, which is of another form")
        head = stored[part.start : part.start + min(part.length, planes.HEADER_BYTES)]
        check_payload(chain, name, expected[name], part.dtype, part.length, head)


def _finite(
    folder: Path, skeleton: Mapping[str, Tensor], values: Iterator[tuple[str, Tensor]]
) -> Iterator[tuple[str, Tensor]]:
    """The same values; buffers may hold −inf, as masks do.

    Raises:
        ArtifactError: one holds NaN or infinity.
    """
    for key, value in values:
        is_mask = not isinstance(skeleton[key], nn.Parameter)
        found = describe_not_finite(value, is_mask=is_mask)
        if found is not None:
            raise ArtifactError(folder / TENSORS_FILE, f"{key} holds {found}", COMPRESS_AGAIN)
        yield key, value


def read_values(
    folder: Path, manifest: Manifest, skeleton: Mapping[str, Tensor], tensors: Any
) -> Iterator[tuple[str, Tensor]]:
    """Key and value of each tensor that is stored, in the dtype that the model has it in.

    Args: as in `check_tensors`, which must have passed.

    The largest of the encoded ones are the first: decoding takes several times a weight's memory,
    which at the end that of all others adds to. The library maps the file into memory: each value
    is a copy, for the model must not depend on the file, and bytes in it need not be aligned.
    """
    path = folder / TENSORS_FILE
    places = dense_places(manifest, skeleton)
    bundles = open_bundles(tensors, places)
    for key, place in places.items():
        with refusing(path, f"{key} does not decode"):
            values = bundles[place.dtype][place.start : place.end]
        yield key, values.clone().view(place.shape).to(skeleton[key].dtype)
    del bundles
    weights = read_table(manifest["kinds"], manifest["weights"])
    for key in sorted(weights, key=lambda key: skeleton[key].numel(), reverse=True):
        weight = weights[key]
        stored, shape = tensors.get_slice(PAYLOADS), skeleton[key].shape
        expected = layout(weight.chain, shape)
        payloads = {}
        for name, part in weight.parts.items():
            data = stored[part.start : part.start + part.length].clone()
            payloads[name] = view_payload(weight.chain, name, expected[name], part.dtype, data)
        with refusing(path, f"{key} does not decode"):
            value = decode(weight.chain, payloads, shape)
        yield key, value
