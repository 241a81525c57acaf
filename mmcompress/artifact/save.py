"""Writing an artifact: all files and the assets, or nothing."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from mmcompress.artifact.encode import encode, to_numpy
from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.load import check_same, describe_tensors, read_manifest, read_skeleton
from mmcompress.artifact.skeleton import OWN
from mmcompress.artifact.spec import without_references
from mmcompress.backbones.base import Backbone
from mmcompress.format.encode import Candidate
from mmcompress.format.errors import ArtifactError
from mmcompress.format.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest, sign
from mmcompress.format.names import Entry
from mmcompress.format.reader import Reader, decode, file_checksum
from mmcompress.format.writer import MOST_BYTES, Writer
from mmcompress.functional.finite import describe_not_finite
from mmcompress.functional.float16 import fits_float16
from mmcompress.system.files import check_new, folder_atomically
from mmcompress.system.memory import handing_back
from mmcompress.system.progress import progress
from mmcompress.system.threads import in_threads

LIBRARIES = (
    *["mmcompress", "torch", "safetensors", "zstandard", "constriction"],
    *["transformers", "open_clip_torch"],
)


def write_artifact(
    folder: Path,
    backbone: Backbone,
    *,
    structure: Sequence[Mapping[str, Any]],
    encodings: Mapping[str, Encoding],
    reasons: Mapping[str, str],
    dense_bytes: int,
    dense_parameters: int,
    dense_dtype: str,
    run: Mapping[str, Any],
    most_bytes: int = MOST_BYTES,
) -> Manifest:
    """Write the folder; `Artifact.save` describes the arguments.

    The folder appears in one rename, complete and read back. When anything fails before, nothing is
    left.
    """
    check_new(folder)
    for name, module in backbone.model.named_modules():
        assert not parametrize.is_parametrized(module), f"{name} is not baked"
    state = backbone.model.state_dict(keep_vars=True)
    unknown = encodings.keys() - state.keys()
    assert not unknown, f"encodings of tensors that the model does not have: {sorted(unknown)}"
    aliases = _find_aliases(state, encodings)
    entries = [
        replace(entry, why=reasons.get(entry.name, "") if entry.name not in encodings else "")
        for entry in describe_tensors(backbone)
        if entry.name not in aliases
    ]
    for key, tensor in state.items():  # before the work of encoding
        if key not in encodings and key not in aliases:
            _check_finite(key, tensor)
    halved = dense_dtype == "float16"
    with (
        folder_atomically(folder) as temporary,
        Writer(temporary, halved=halved, most_bytes=most_bytes) as writer,
    ):
        digests = _write_tensors(writer, entries, state, encodings)
        names = sorted(backbone.save_assets(temporary))
        manifest = {
            "format_version": FORMAT_VERSION,
            "adapter": backbone.adapter,
            "spec": without_references(backbone.spec),
            "structure": list(structure),
            "aliases": aliases,
            "dense_dtype": dense_dtype,
            "dense": {
                "bytes": dense_bytes,
                "parameters": dense_parameters,
                "dtype": _parameter_dtype(backbone),
            },
            "versions": _versions(),
            "run": dict(run),
            "assets": {name: file_checksum(temporary / name) for name in names},
        } | writer.finish()
        (temporary / MANIFEST_FILE).write_bytes(sign(manifest))
        return _read_back(temporary, state, digests)


@dataclass(frozen=True)
class Job:
    """One tensor that is to be stored.

    Attributes:
        entry: what the model says of it.
        tensor: its values.
        encoding: how it is stored; None where it stays dense.
    """

    entry: Entry
    tensor: Tensor
    encoding: Encoding | None


def _write_tensors(
    writer: Writer,
    entries: Iterable[Entry],
    state: Mapping[str, Tensor],
    encodings: Mapping[str, Encoding],
) -> dict[str, str]:
    """A checksum of the values of each tensor; a few of them are in memory at a time."""
    digests: dict[str, str] = {}
    in_order = progress(sorted(entries, key=lambda entry: entry.name), "store")
    used = handing_back(in_order, lambda entry: 4 * entry.count)
    jobs = _jobs(writer, used, state, encodings)
    for job, (candidate, digest) in in_threads(_prepare, jobs, lambda job: job.tensor.nbytes):
        if candidate is None:
            writer.add_dense(job.entry, to_numpy(job.tensor))
        else:
            assert job.encoding is not None
            codebook = job.encoding.tensors.get("codebook")
            writer.add_encoded(job.entry, job.encoding.steps, *candidate, codebook=codebook)
        digests[job.entry.name] = digest
    return digests


def _jobs(
    writer: Writer,
    entries: Iterable[Entry],
    state: Mapping[str, Tensor],
    encodings: Mapping[str, Encoding],
) -> Iterator[Job]:
    """What there is to store; a weight is baked when it is asked for."""
    for entry in entries:
        key = entry.name
        # Float32 that float16 cannot hold is stored as a weight that no step touched.
        wide = key not in encodings and writer.halved and _is_wide(state[key])
        encoding = Encoding() if wide else encodings.get(key)
        weight = state[key] if encoding is None or encoding.weight is None else encoding.weight
        if encoding is not None:
            _check_finite(key, weight)
        yield Job(entry, weight, encoding)


def _prepare(job: Job) -> tuple[Candidate | None, str]:
    """How a tensor is stored, None as it is; and the checksum of its values."""
    if job.encoding is None:
        return None, _digest(to_numpy(job.tensor))
    candidate = encode(job.tensor, job.encoding, name=job.entry.name)
    return candidate, _digest(to_numpy(job.tensor) + np.float32(0))  # −0 is +0


def _is_wide(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and not fits_float16(tensor.detach())


def _digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _check_finite(key: str, tensor: Tensor) -> None:
    """Buffers may hold −inf, as masks do."""
    found = describe_not_finite(tensor.detach(), is_mask=not isinstance(tensor, nn.Parameter))
    _refuse(found and f"{key} holds {found}")


def _read_back(folder: Path, state: Mapping[str, Tensor], digests: Mapping[str, str]) -> Manifest:
    """The manifest, once the files are found to hold the model; it does what `Artifact.load` does.

    Args:
        folder: all written.
        state: of the model.
        digests: of the values that are to be in the files, by key.
    Raises:
        ArtifactError: they cannot be read, or hold other values.
    """
    manifest = read_manifest(folder)
    if manifest["adapter"] != OWN:  # only the user's code builds those
        read_skeleton(folder, manifest)
    with Reader(folder, manifest) as reader:
        check_same(reader, state)
        found = in_threads(
            lambda entry: _digest(_stored_values(reader, entry.name)),
            progress(list(reader.entries.values()), "check"),
            lambda entry: 4 * entry.count,
        )
        for entry, digest in found:
            if digest != digests[entry.name]:
                raise ArtifactError(
                    folder,
                    f"gives back other values of {entry.name} than were written",
                    "save it again; if that does not help, report it with the recipe",
                )
    return manifest


def _stored_values(reader: Reader, key: str) -> np.ndarray:
    """What a file gives back of a tensor, in the model's dtype, −0 as +0 where it was encoded."""
    stored = reader.get(key)
    if stored.chain is not None:
        return decode(stored) + np.float32(0)
    return decode(stored) if stored.stored_dtype != stored.dtype else stored.codes


def _refuse(not_finite: str | None) -> None:
    if not_finite is not None:
        raise ValueError(
            f"{not_finite}, and no such artifact could be read: lower optimizer.lr, or choose a "
            "milder recipe"
        )


def _find_aliases(state: Mapping[str, Tensor], encodings: Mapping[str, Encoding]) -> dict[str, str]:
    """Name → the name under which the same memory is stored: the encoded one, or the first."""
    groups: dict[Any, list[str]] = {}
    for key, tensor in state.items():
        assert isinstance(tensor, Tensor), f"{key} is no tensor"
        place: Any = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if tensor.is_meta:  # to be had from its encoding
            place = id(tensor)
        groups.setdefault(place if tensor.numel() else key, []).append(key)
    aliases: dict[str, str] = {}
    for keys in groups.values():
        encoded = [key for key in keys if key in encodings]
        assert len(encoded) <= 1, f"tied tensors {encoded} have an encoding each"
        owner = encoded[0] if encoded else keys[0]
        aliases |= {key: owner for key in keys if key != owner}
    return aliases


def _parameter_dtype(backbone: Backbone) -> str:
    dtypes = {str(p.dtype).removeprefix("torch.") for p in backbone.model.parameters()}
    return "+".join(sorted(dtypes))


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
