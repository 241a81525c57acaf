"""Writing an artifact: both files and the assets, or nothing."""

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.utils import parametrize

from mmcompress.artifact.chain import decode
from mmcompress.artifact.encode import encode
from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.load import STORED_DTYPES, file_checksum
from mmcompress.artifact.manifest import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    TENSORS_FILE,
    Manifest,
    parse,
    sign,
)
from mmcompress.backbones.base import Backbone

LIBRARIES = ("mmcompress", "torch", "safetensors", "zstandard", "transformers", "open_clip_torch")


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

    The folder appears in one rename, complete. When anything fails before, nothing is left.
    """
    check_target(folder)
    for name, module in backbone.model.named_modules():
        assert not parametrize.is_parametrized(module), f"{name} is not baked"
    state = backbone.model.state_dict(keep_vars=True)
    unknown = encodings.keys() - state.keys()
    assert not unknown, f"encodings of tensors that the model does not have: {sorted(unknown)}"
    aliases = _find_aliases(state, encodings)
    stored = {k: t.detach().cpu().contiguous() for k, t in state.items() if k not in aliases}

    tensors, weights = _encode_all(backbone, stored, encodings)
    dense = [key for key in stored if key not in encodings]
    for key in dense:
        assert key not in tensors, f"{key} is the name of a payload too"
        tensors[key] = _to_dense(key, stored[key], dense_dtype)

    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        save_file(_unshared(tensors), temporary / TENSORS_FILE)
        names = sorted(backbone.save_assets(temporary))
        manifest = {
            "format_version": FORMAT_VERSION,
            "adapter": backbone.adapter,
            "spec": backbone.spec,
            "structure": list(structure),
            "weights": weights,
            "aliases": aliases,
            "dense_dtype": dense_dtype,
            "dense": {
                "bytes": dense_bytes,
                "parameters": dense_parameters,
                "dtype": _parameter_dtype(backbone),
            },
            "reasons": {key: reasons[key] for key in sorted(reasons) if key in dense},
            "versions": _versions(),
            "run": dict(run),
            "tensors": {
                "bytes": (temporary / TENSORS_FILE).stat().st_size,
                "sha256": file_checksum(temporary / TENSORS_FILE),
            },
            "assets": {name: file_checksum(temporary / name) for name in names},
        }
        data = sign(manifest)
        (temporary / MANIFEST_FILE).write_bytes(data)
        for file in temporary.iterdir():
            _flush(file)
        check_target(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return parse(data, folder / MANIFEST_FILE)


def check_target(folder: Path) -> None:
    """Refuse to write over what is there.

    Raises:
        ValueError: `folder` exists.
    """
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder} already exists: remove it, or save the artifact elsewhere")


def _encode_all(
    backbone: Backbone, stored: Mapping[str, Tensor], encodings: Mapping[str, Encoding]
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    targets = {target.name: target for target in backbone.targets()}
    tensors: dict[str, Tensor] = {}
    weights: dict[str, Any] = {}
    codebooks: dict[int, str] = {}
    for index, key in enumerate(key for key in stored if key in encodings):
        chain, payloads = encode(stored[key], encodings[key])
        decoded = decode(chain, payloads, stored[key].shape)
        assert torch.equal(decoded, stored[key]), f"{key} does not decode to its baked value"
        names = {name: f"t{index}.{name}" for name in payloads}
        if "codebook" in payloads:  # one object in several encodings is stored once
            shared = id(encodings[key].tensors["codebook"])
            names["codebook"] = codebooks.setdefault(shared, names["codebook"])
        tensors |= {names[name]: payload for name, payload in payloads.items()}
        target = targets.get(key)
        weights[key] = {
            "shape": list(stored[key].shape),
            "dtype": "float32",
            "modality": target.modality if target else backbone.modality_of(key),
            "role": target.role if target else "other",
            "steps": list(encodings[key].steps),
            "chain": chain,
            "payload": names,
        }
    return tensors, weights


def _find_aliases(state: Mapping[str, Tensor], encodings: Mapping[str, Encoding]) -> dict[str, str]:
    """Name → the name under which the same memory is stored: the encoded one, or the first."""
    groups: dict[Any, list[str]] = {}
    for key, tensor in state.items():
        assert isinstance(tensor, Tensor), f"{key} is no tensor"
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        groups.setdefault(place if tensor.numel() else key, []).append(key)
    aliases: dict[str, str] = {}
    for keys in groups.values():
        encoded = [key for key in keys if key in encodings]
        assert len(encoded) <= 1, f"tied tensors {encoded} have an encoding each"
        owner = encoded[0] if encoded else keys[0]
        aliases |= {key: owner for key in keys if key != owner}
    return aliases


def _to_dense(key: str, tensor: Tensor, dense_dtype: str) -> Tensor:
    assert tensor.dtype in STORED_DTYPES, f"{key} is {tensor.dtype}, which has no place in the file"
    if dense_dtype != "float16" or tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    assert torch.equal(half.float(), tensor), f"{key} is not rounded to float16"
    return half


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Views into larger memory copied: safetensors refuses what shares memory."""
    return {
        name: tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
        for name, tensor in tensors.items()
    }


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


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
