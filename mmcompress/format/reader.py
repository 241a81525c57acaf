"""Reading an artifact as it is stored: codes, side arrays and masks, one tensor at a time.

    for weight in read(folder):
        weight.codes, weight.scale, weight.group_size

Order matters. Sizes and checksums of the files come before their content is looked at, and each
shape is compared with the bytes that are there before anything is allocated for it. No floats are
made of codes: `decode` does that to one weight.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Self

import numpy as np

from mmcompress.format.bounds import check_values, most_places
from mmcompress.format.bundles import (
    Bundle,
    bundle_names,
    bundle_sizes,
    check_bundle,
    open_bundle,
    place_dense,
)
from mmcompress.format.chain import Chain
from mmcompress.format.codecs import planes
from mmcompress.format.dtypes import DTYPES, to_float32
from mmcompress.format.errors import ArtifactError, refusing
from mmcompress.format.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    PAYLOADS,
    Manifest,
    check_manifest,
    files_of,
    most_of_manifest,
    parse,
    stored_bytes,
)
from mmcompress.format.names import Entry, from_tree
from mmcompress.format.table import payload_bytes, read_table
from mmcompress.format.tensorfile import Stored, open_file
from mmcompress.format.version_2 import Describe, upgrade, with_files

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")

DENSE = "dense"
"""The codec of a tensor that is no encoded weight."""


@dataclass(frozen=True)
class StoredWeight:
    """One tensor as it is stored.

    Attributes:
        entry: its name, shape and dtype in the model, tower and role.
        steps: names of the steps that touched it.
        codec: of the values: `quantize`, `float8`, `codebook`, `floats`, or `dense`.
        settings: of that codec: `bits`, `group_size`, …
        codes: (rows, columns / block size): whole numbers in the smallest dtype that holds them;
            indices of a `codebook`; floats of `floats`. Zero where a mask drops them. Of a dense
            tensor its values, in its shape.
        stored_dtype: of a dense tensor, the name of its dtype in the file.
        scale: (rows, groups), where there is one.
        zero_point: (rows, groups), whole or real numbers, where there is one.
        column_scale: (columns,), where there is one.
        codebook: (entries, block size), where there is one.
        mask: bool, of the weight's shape, True = kept, where there is one.
    """

    entry: Entry
    codes: np.ndarray
    steps: tuple[str, ...] = ()
    codec: str = DENSE
    settings: Mapping[str, Any] | None = None
    stored_dtype: str = ""
    scale: np.ndarray | None = None
    zero_point: np.ndarray | None = None
    column_scale: np.ndarray | None = None
    codebook: np.ndarray | None = None
    mask: np.ndarray | None = None
    chain: Chain | None = None

    @property
    def name(self) -> str:
        """Its key in the model's state dict."""
        return self.entry.name

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor in the model."""
        return self.entry.shape

    @property
    def dtype(self) -> str:
        """Name of its dtype in the model."""
        return self.entry.dtype

    @property
    def group_size(self) -> int:
        """Columns that share a scale; 0 where there is no scale."""
        return int((self.settings or {}).get("group_size", 0))

    @property
    def bits(self) -> int:
        """Width of a code; 0 where values are floats."""
        return self.chain.values.bits if self.chain else 0


def decode(stored: StoredWeight) -> np.ndarray:
    """The tensor that is stored, in its shape: float32, or as it is where it holds no floats.

    Example:
        >>> entry = Entry("x", (2,), "float16")
        >>> decode(StoredWeight(entry, np.ones(2, np.float16), stored_dtype="float16")).dtype
        dtype('float32')
    """
    if stored.chain is None:
        whole = stored.stored_dtype.startswith(("int", "uint", "bool"))
        return stored.codes if whole else to_float32(stored.codes, stored.stored_dtype)
    names = ("scale", "zero_point", "column_scale", "codebook", "mask", "codes")
    opened = {name: getattr(stored, name) for name in names}
    return stored.chain.to_floats({k: v for k, v in opened.items() if v is not None})


def read(folder: Path, describe: Describe | None = None) -> Iterator[StoredWeight]:
    """Every tensor of an artifact, in the order of their names; each is read when it is asked for.

    Args:
        folder: of the artifact.
        describe: the tensors of the model, which artifacts of format 2 need.
    Raises:
        ArtifactError: anything about the folder is wrong.
    """
    with Reader(folder, read_manifest(folder, describe)) as reader:
        for name in reader.entries:
            yield reader.get(name)


def read_manifest(folder: Path, describe: Describe | None = None) -> Manifest:
    """The manifest, once all files and assets are what it says they are.

    Args:
        folder: of the artifact.
        describe: as in `read`.
    Raises:
        ArtifactError: a file is missing, damaged, foreign or outside the folder.
    """
    with refusing(folder, "cannot be read"):  # a loop of links, say, or no permission
        return _read_manifest(folder, describe)


def _read_manifest(folder: Path, describe: Describe | None) -> Manifest:
    if not folder.is_dir():
        raise ArtifactError(folder, "is no folder", "give the folder that holds manifest.json")
    path = _inside(folder, MANIFEST_FILE)
    stored = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
    size = path.stat().st_size
    if size > most_of_manifest(stored):
        raise ArtifactError(path, f"has {size:,} bytes, far more than its tensors explain")
    manifest = found = parse(path.read_bytes(), path)
    if found["format_version"] == FORMAT_VERSION:
        check_manifest(found, path)
    else:
        manifest = with_files(found, path)
    _check_files(folder, manifest)
    if manifest is found:
        return manifest
    if describe is None:
        raise ArtifactError(path, "is of format 2, which needs the model", "read it with torch")
    return upgrade(found, path, describe)


def _check_files(folder: Path, manifest: Manifest) -> None:
    path = folder / MANIFEST_FILE
    for name in manifest["assets"]:
        if not FILE_NAME.fullmatch(name) or name in (MANIFEST_FILE, *files_of(manifest)):
            raise ArtifactError(path, f"names an asset {name!r} that is no plain file name")
    for file in manifest["files"]:
        tensors = _inside(folder, file["name"])
        size = tensors.stat().st_size
        if size != file["bytes"]:
            problem = f"has {size} bytes where the manifest says {file['bytes']}"
            raise ArtifactError(tensors, problem)
    checksums = {file["name"]: file["sha256"] for file in manifest["files"]} | manifest["assets"]
    for name, checksum in checksums.items():
        if file_checksum(_inside(folder, name)) != checksum:
            raise ArtifactError(folder / name, "does not match its checksum in the manifest")


def file_checksum(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside(folder: Path, name: str) -> Path:
    path = folder / name
    if path.resolve().parent != folder.resolve():
        raise ArtifactError(path, "points out of the artifact's folder")
    if not path.is_file():
        raise ArtifactError(path, "is missing, or no plain file")
    return path


class Reader:
    """The tensors of an artifact, to be read in any order; a context, which opens the files.

    Args:
        folder: of the artifact.
        manifest: from `read_manifest`.
    Attributes:
        entries: all tensors by name, in the order of their names.
        weights: where those that are encoded lie.
        places: where the others lie.
    Raises:
        ArtifactError: a tensor is missing or superfluous, or no such bytes can hold it.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest
        self.path = folder / MANIFEST_FILE
        by_file = [file["tensors"] for file in manifest["files"]]
        halved = manifest["dense_dtype"] == "float16"
        stored = stored_bytes(manifest)
        with refusing(self.path, "holds what no manifest holds"):
            self.entries = from_tree(manifest["forms"], manifest["tensors"], most_places(stored))
            self.weights = read_table(manifest["kinds"], self.entries, by_file)
            if sum(by_file) != len(self.entries):
                problem = f"files holds {sum(by_file)} tensors, and tensors {len(self.entries)}"
                raise ValueError(problem)
        with refusing(self.path, "describes a model that is too large"):
            check_values(sum(entry.count for entry in self.entries.values()), stored)
        self.places = place_dense(self.entries, by_file, halved=halved)
        self._chains: dict[str, Chain] = {}
        self._stack = ExitStack()
        self._files: list[dict[str, Stored]] = []
        self._bundles: dict[tuple[int, str], Bundle] = {}
        self._one_bundle = Lock()
        """A bundle keeps the last of its frames, which another thread must not exchange."""

    def __enter__(self) -> Self:
        try:
            for name in files_of(self.manifest):
                self._files.append(self._stack.enter_context(open_file(self.folder / name)))
            self._check()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self._bundles.clear()

    def chain(self, name: str) -> Chain:
        """The codecs of an encoded weight.

        Raises:
            ValueError: they do not fit its shape.
        """
        if name not in self._chains:
            weight = self.weights[name]
            shape, versions = self.entries[name].shape, self.manifest["codecs"]
            self._chains[name] = Chain(weight.stages, shape, weight.parts.keys(), versions)
        return self._chains[name]

    def get(self, name: str) -> StoredWeight:
        """One tensor; any thread may ask.

        Raises:
            ArtifactError: its bytes are damaged.
        """
        entry = self.entries[name]
        with refusing(self.file_of(name), f"{name} does not decode"):
            if entry.row is None:
                with self._one_bundle:
                    return self._get_dense(entry)
            weight, chain = self.weights[name], self.chain(name)
            payloads = {}
            for payload, part in weight.parts.items():
                data = self._files[part.file][PAYLOADS].read(part.start, part.start + part.length)
                payloads[payload] = chain.view_payload(payload, part.dtype, data)
            opened = chain.open(payloads)
        return StoredWeight(
            entry=entry,
            steps=tuple(weight.steps),
            codec=chain.values.name,
            settings=vars(chain.values),
            chain=chain,
            codes=opened["codes"],
            scale=opened.get("scale"),
            zero_point=opened.get("zero_point", opened.get("real_zero_point")),
            column_scale=opened.get("column_scale"),
            codebook=opened.get("codebook"),
            mask=opened.get("mask"),
        )

    def sizes(self) -> list[dict[str, int]]:
        """Of each file: bytes of each of its tensors, by name."""
        return [{name: t.length for name, t in tensors.items()} for tensors in self._files]

    def _get_dense(self, entry: Entry) -> StoredWeight:
        place = self.places[entry.name]
        key = place.file, place.dtype
        if not entry.count:
            values = np.empty(0, DTYPES[place.dtype].numpy)
        else:
            if key not in self._bundles:
                size = bundle_sizes(self.places.values(), place.file)[place.dtype]
                self._bundles[key] = open_bundle(self._files[place.file], place.dtype, size)
            values = self._bundles[key][place.start : place.end]
        return StoredWeight(entry, values.reshape(entry.shape), stored_dtype=place.dtype)

    def file_of(self, name: str) -> Path:
        """The file that a tensor lies in."""
        if name in self.places:
            index = self.places[name].file
        else:
            index = max((part.file for part in self.weights[name].parts.values()), default=0)
        return self.folder / files_of(self.manifest)[index]

    def _check(self) -> None:
        """Every tensor is there, and nothing else, each as long as it must be."""
        for alias, name in self.manifest["aliases"].items():
            if alias in self.entries or name not in self.entries:
                raise ArtifactError(self.path, f"ties {alias} to {name}, which does not fit")
        for index, tensors in enumerate(self._files):
            self._check_file(index, self.folder / files_of(self.manifest)[index], tensors)
        for name in self.weights:
            if self.entries[name].dtype != "float32":
                problem = f"encodes {name}, which is no float32 in the model"
                raise ArtifactError(self.path, problem)
            with refusing(self.path, f"{name} does not fit its bytes"):
                self._check_weight(name)

    def _check_file(self, index: int, path: Path, tensors: Mapping[str, Stored]) -> None:
        bundles = {}
        for dtype, size in bundle_sizes(self.places.values(), index).items():
            plain, compressed = bundle_names(dtype)
            bundles[compressed if compressed in tensors else plain] = (dtype, size)
        encoded = any(p.file == index for w in self.weights.values() for p in w.parts.values())
        expected = {*bundles, *([PAYLOADS] if encoded else [])}
        for name in sorted(expected - tensors.keys()):
            raise ArtifactError(path, f"misses the tensor {name}")
        for name in sorted(tensors.keys() - expected):
            raise ArtifactError(path, f"holds a tensor {name} that the model does not have")
        for name, (dtype, size) in bundles.items():
            with refusing(path, f"{name} does not fit"):
                check_bundle(name, dtype, size, tensors[name])
        if encoded:
            dtype, shape = tensors[PAYLOADS].dtype, tensors[PAYLOADS].shape
            wanted = (payload_bytes(self.weights, index),)
            if dtype != "U8" or shape != wanted:
                problem = f"{PAYLOADS} is {dtype} {shape}, the manifest's lengths add up to U8 "
                raise ArtifactError(path, f"{problem}{wanted}")

    def _check_weight(self, name: str) -> None:
        chain, parts = self.chain(name), self.weights[name].parts
        chain.check_names(parts.keys())
        for payload, part in parts.items():
            if part.owner != name:
                theirs = self.chain(part.owner).payloads[payload]
                if theirs != chain.payloads[payload]:
                    problem = f"it shares the {payload} of {part.owner}, which is of another form"
                    raise ValueError(problem)
            stop = part.start + min(part.length, planes.HEADER_BYTES)
            head = self._files[part.file][PAYLOADS].read(part.start, stop)
            chain.check_payload(payload, part.dtype, part.length, head)
