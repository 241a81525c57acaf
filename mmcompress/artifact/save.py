"""Writing an artifact: both files and the assets, or nothing."""

from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import parametrize

from mmcompress.artifact.encode import encode
from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.load import (
    PAYLOADS,
    check_tensors,
    file_checksum,
    open_tensors,
    read_manifest,
    read_skeleton,
    read_values,
)
from mmcompress.artifact.skeleton import OWN
from mmcompress.artifact.spec import without_references
from mmcompress.backbones.base import Backbone
from mmcompress.format.bundles import fingerprint, make_bundles, place_dense
from mmcompress.format.errors import ArtifactError
from mmcompress.format.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    TENSORS_FILE,
    Manifest,
    sign,
)
from mmcompress.format.table import Rows, add_row
from mmcompress.functional.finite import describe_not_finite, find_not_finite
from mmcompress.functional.float16 import fits_float16
from mmcompress.system.files import check_new, folder_atomically
from mmcompress.system.memory import give_back, large_blocks_apart
from mmcompress.system.progress import progress

LIBRARIES = (
    *["mmcompress", "torch", "safetensors", "zstandard", "constriction"],
    *["transformers", "open_clip_torch"],
)


@large_blocks_apart()
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
    left = state.keys() - aliases.keys()
    stored = {k: state[k].detach().cpu().contiguous() for k in left if not state[k].is_meta}

    halved = dense_dtype == "float16"
    wide = _find_wide(stored, encodings) if halved else []
    left_dense = ((k, t) for k, t in state.items() if k in stored and k not in encodings)
    _refuse(find_not_finite(left_dense))
    kinds, weights, payloads = _encode_all(stored, encodings, wide)
    dense = place_dense(state, {*encodings, *aliases, *wide}, halved=halved)
    tensors = make_bundles(stored, dense)
    if payloads:
        tensors[PAYLOADS] = torch.cat([_as_bytes(payload) for payload in payloads])

    with folder_atomically(folder) as temporary:
        save_file(tensors, temporary / TENSORS_FILE)
        names = sorted(backbone.save_assets(temporary))
        manifest = {
            "format_version": FORMAT_VERSION,
            "adapter": backbone.adapter,
            "spec": without_references(backbone.spec),
            "structure": list(structure),
            "skeleton": fingerprint(state),
            "kinds": kinds,
            "weights": weights,
            "aliases": aliases,
            "dense_dtype": dense_dtype,
            "dense": {
                "bytes": dense_bytes,
                "parameters": dense_parameters,
                "dtype": _parameter_dtype(backbone),
            },
            "reasons": _by_reason({k: reasons[k] for k in [*dense, *wide] if k in reasons}),
            "versions": _versions(),
            "run": dict(run),
            "tensors": {
                "bytes": (temporary / TENSORS_FILE).stat().st_size,
                "sha256": file_checksum(temporary / TENSORS_FILE),
            },
            "assets": {name: file_checksum(temporary / name) for name in names},
        }
        (temporary / MANIFEST_FILE).write_bytes(sign(manifest))
        wanted = stored | {k: e.weight for k, e in encodings.items() if e.weight is not None}
        return _read_back(temporary, state, wanted)


def _read_back(folder: Path, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Manifest:
    """The manifest, once the files are found to hold the model; it does what `Artifact.load` does.

    Args:
        folder: all written.
        state: of the model.
        wanted: the values that are to be in the files, by key.
    Raises:
        ArtifactError: they cannot be read, or hold other values.
    """
    manifest = read_manifest(folder)
    if manifest["adapter"] != OWN:  # only the user's code builds those
        read_skeleton(folder, manifest)
    with open_tensors(folder) as tensors:
        check_tensors(folder, manifest, state, tensors)
        for key, value in read_values(folder, manifest, state, tensors):
            expected = wanted[key].detach().cpu()
            if value.dtype != expected.dtype or not torch.equal(value, expected):
                raise ArtifactError(
                    folder / TENSORS_FILE,
                    f"gives back other values of {key} than were written",
                    "save it again; if that does not help, report it with the recipe",
                )
            give_back([wanted[key]])
    return manifest


def _refuse(not_finite: str | None) -> None:
    if not_finite is not None:
        raise ValueError(
            f"{not_finite}, and no such artifact could be read: lower optimizer.lr, or choose a "
            "milder recipe"
        )


def _find_wide(stored: Mapping[str, Tensor], encodings: Mapping[str, Encoding]) -> list[str]:
    """Dense tensors that float16 cannot hold: each is stored as a weight that no step touched."""
    wide = []
    for key, tensor in stored.items():
        if tensor.dtype == torch.float32 and key not in encodings:
            wide += [] if fits_float16(tensor) else [key]
            give_back([tensor])
    return wide


def _encode_all(
    stored: Mapping[str, Tensor], encodings: Mapping[str, Encoding], wide: Sequence[str]
) -> tuple[list[dict[str, Any]], Rows, list[Tensor]]:
    """The manifest's kinds and weights, and all payloads in the order in which they are stored."""
    kinds: list[dict[str, Any]] = []
    rows: Rows = {}
    stored_payloads: list[Tensor] = []
    # By identity of a codebook: owner; itself, so that no later one is taken for it; as stored.
    codebooks: dict[int, tuple[str, Tensor, Tensor]] = {}
    for key in progress(sorted([*encodings, *wide]), "store"):
        encoding = Encoding() if key in wide else encodings[key]
        weight = stored[key] if encoding.weight is None else encoding.weight.detach().cpu()
        found = describe_not_finite(weight)
        _refuse(found and f"{key} holds {found}")
        chain, payloads = encode(weight, encoding)
        owner = key
        if "codebook" in payloads:  # one object in several encodings is stored once
            shared = encoding.tensors["codebook"]
            first = (key, shared, payloads["codebook"])
            owner, _, codebook = codebooks.setdefault(id(shared), first)
            assert torch.equal(codebook, payloads["codebook"]), f"{key} and {owner} share no more"
        shared_with = None if owner == key else owner
        rows[key] = add_row(kinds, encoding.steps, chain, payloads, shared_with)
        stored_payloads += [
            payload
            for name, payload in sorted(payloads.items())
            if name != "codebook" or owner == key
        ]
    return kinds, rows, stored_payloads


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


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Reason → the keys that it holds for."""
    found: dict[str, list[str]] = {}
    for key, reason in reasons.items():
        found.setdefault(reason, []).append(key)
    return found


def _as_bytes(payload: Tensor) -> Tensor:
    return payload.contiguous().flatten().view(torch.uint8)


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
