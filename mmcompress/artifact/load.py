"""From an artifact to a model: files are checked, the skeleton is built, each weight is read."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmcompress.artifact.skeleton import UPGRADE, Skeleton, build_skeleton
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.parts import parts_of_tensors
from mmcompress.format import reader as stored_as
from mmcompress.format.errors import ArtifactError
from mmcompress.format.manifest import MANIFEST_FILE, Manifest
from mmcompress.format.names import Entry
from mmcompress.format.reader import Reader, StoredWeight, decode
from mmcompress.functional.finite import describe_not_finite
from mmcompress.system.progress import progress
from mmcompress.system.threads import in_threads

COMPRESS_AGAIN = "compress again, from a model that is finite"


def read_manifest(folder: Path, own: Skeleton | None = None) -> Manifest:
    """The manifest, once all files and assets are what it says they are.

    Args:
        own: builds a model of the user's own, which artifacts of format 2 need.
    Raises:
        ArtifactError: a file is missing, damaged, foreign or outside the folder.
    """

    return stored_as.read_manifest(folder, lambda found: describe_model(folder, found, own))


def describe_model(folder: Path, manifest: Manifest, own: Skeleton | None = None) -> list[Entry]:
    """The tensors of the model that a manifest describes.

    Args:
        manifest: its tensors need not be known.
        own: builds a model of the user's own.
    Raises:
        ArtifactError: it cannot be built.
    """
    path = folder / MANIFEST_FILE
    return describe_tensors(build_skeleton(manifest, folder, path=path, on_meta=True, own=own))


def describe_tensors(backbone: Backbone) -> list[Entry]:
    """Every tensor of the model's state dict: name, shape, dtype, tower, part and role."""
    targets = {target.name: target for target in backbone.targets()}
    tensors, found = backbone.model.state_dict(), []
    parts = parts_of_tensors(backbone, tensors)
    for key, tensor in tensors.items():
        target = targets.get(key)
        modality = target.modality if target else backbone.modality_of(key)
        dtype = str(tensor.dtype).removeprefix("torch.")
        role = target.role if target else ""
        found.append(Entry(key, tuple(tensor.shape), dtype, modality, role, part=parts[key]))
    return found


def read_skeleton(folder: Path, manifest: Manifest, own: Skeleton | None = None) -> Backbone:
    """The backbone on the meta device, once every tensor is found to fit it.

    Raises:
        ArtifactError: a tensor is missing, superfluous, or of another shape or dtype.
    """
    with Reader(folder, manifest) as reader:
        return _build(reader, own)


def read_backbone(folder: Path, manifest: Manifest, own: Skeleton | None = None) -> Backbone:
    """The backbone with its weights, dense and in evaluation mode.

    Raises:
        ArtifactError: as `read_skeleton`; or a payload does not decode.
    """
    with Reader(folder, manifest) as reader:
        return open_backbone(reader, own)


def open_backbone(
    reader: Reader,
    own: Skeleton | None = None,
    *,
    without: Collection[str] = (),
) -> Backbone:
    """The backbone of an open artifact with its weights, dense and in evaluation mode.

    Args:
        without: names of weights that stay on the meta device, under all their names.
    Raises:
        ArtifactError: as `read_backbone`.
    """
    manifest, path = reader.manifest, reader.path
    backbone = _build(reader, own)
    if _lacks_values(backbone.model):
        # They follow from the code of the model, which has just been found harmless.
        backbone = build_skeleton(manifest, reader.folder, path=path, on_meta=False, own=own)
    skeleton = backbone.model.state_dict(keep_vars=True)
    state = dict(_finite(reader, skeleton, without))
    for key, value in state.items():
        # A Parameter is taken as it is, so that two names can share one.
        state[key] = nn.Parameter(value) if isinstance(skeleton[key], nn.Parameter) else value
    state |= {alias: state[key] for alias, key in manifest["aliases"].items() if key in state}
    backbone.model.load_state_dict({**skeleton, **state}, assign=True)
    buffers = backbone.model.named_buffers()
    left = [name for name, buffer in buffers if buffer.is_meta and name not in without]
    if left:
        raise ArtifactError(path, f"describes a model whose {left} are in no file", UPGRADE)
    return backbone.eval()


def _lacks_values(model: nn.Module) -> bool:
    """Whether tensors that no state dict holds, such as position ids, are on the meta device."""
    saved = model.state_dict().keys()
    unsaved: list[object] = [b for name, b in model.named_buffers() if name not in saved]
    for module in model.modules():
        for value in vars(module).values():
            unsaved += value if isinstance(value, list | tuple) else [value]
    return any(isinstance(value, Tensor) and value.is_meta for value in unsaved)


def _build(reader: Reader, own: Skeleton | None) -> Backbone:
    """The skeleton on the meta device, its tensors those that are stored."""
    manifest, path = reader.manifest, reader.path
    backbone = build_skeleton(manifest, reader.folder, path=path, on_meta=True, own=own)
    check_same(reader, backbone.model.state_dict())
    return backbone


def check_same(reader: Reader, state: Mapping[str, Tensor]) -> None:
    """Refuse an artifact whose tensors are not those of the model.

    Args:
        state: of the model, on any device.
    Raises:
        ArtifactError: a name, a shape or a dtype is another one.
    """
    aliases = reader.manifest["aliases"]
    for key in [*reader.entries, *aliases]:
        if key not in state:
            raise ArtifactError(reader.path, f"lists {key}, which the model does not have")
    for key, tensor in state.items():
        entry = reader.entries.get(aliases.get(key, key))
        found = tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
        if entry is None or found != (entry.shape, entry.dtype):
            stored = f"{entry.dtype} {list(entry.shape)}" if entry else "not there"
            problem = (
                f"describes a model whose tensors are not those that were stored: {key} is "
                f"{found[1]} {list(found[0])} in the model, and {stored} in the artifact"
            )
            raise ArtifactError(reader.path, problem, "install the library versions that it names")


def _finite(
    reader: Reader, skeleton: Mapping[str, Tensor], without: Collection[str]
) -> Iterator[tuple[str, Tensor]]:
    """All values; buffers may hold −inf, as masks do.

    Raises:
        ArtifactError: one holds NaN or infinity.
    """

    def read(entry: Entry) -> Tensor:
        key = entry.name
        value = to_tensor(reader.get(key))
        found = describe_not_finite(value, is_mask=not isinstance(skeleton[key], nn.Parameter))
        if found is not None:
            raise ArtifactError(reader.file_of(key), f"{key} holds {found}", COMPRESS_AGAIN)
        return value

    entries = [entry for entry in in_reading_order(reader) if entry.name not in without]
    for entry, value in in_threads(read, progress(entries, "read"), lambda entry: 4 * entry.count):
        yield entry.name, value


def in_reading_order(reader: Reader) -> list[Entry]:
    """All tensors, the largest of the encoded ones before the others of these.

    Decoding takes several times a weight's memory, which at the end that of all others adds to.
    """
    largest = sorted(reader.weights, key=lambda key: reader.entries[key].count, reverse=True)
    return [reader.entries[key] for key in [*reader.places, *largest]]


def to_tensor(stored: StoredWeight) -> Tensor:
    """The tensor that is stored, in the dtype that the model has it in."""
    if stored.chain is not None:
        return torch.from_numpy(decode(stored))
    return from_numpy(stored.codes, stored.stored_dtype).to(getattr(torch, stored.dtype))


def from_numpy(values: np.ndarray, dtype: str) -> Tensor:
    """A tensor in the same memory; bfloat16 is given as its bits."""
    if dtype == "bfloat16":
        return torch.from_numpy(values.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(values)
