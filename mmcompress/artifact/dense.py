"""The figure that an artifact is compared with."""

import copy
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import nn


@dataclass(frozen=True)
class DenseSize:
    """What a compressed model is compared with.

    Attributes:
        bytes: of the dense model's safetensors file.
        parameters: of the dense model.
    """

    bytes: int
    parameters: int

    @classmethod
    def of(cls, model: nn.Module) -> "DenseSize":
        """The size of a model as it stands."""
        return cls(dense_file_bytes(model), sum(p.numel() for p in model.parameters()))


def dense_file_bytes(model: nn.Module, *, halved: bool = False) -> int:
    """Size of the safetensors file that holds the model as it is, tied tensors once.

    A file is written to a temporary folder and measured, for the header counts too. What its
    tensors hold makes no difference to that: the model's are not read.

    Args:
        halved: with float32 tensors in float16.
    """
    blank = _unfilled(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(_halved(blank) if halved else blank, str(path))
        return path.stat().st_size


def _halved(model: nn.Module) -> nn.Module:
    return model._apply(lambda t: t.half() if t.dtype == torch.float32 else t)


def dense_checksum(model: nn.Module) -> str:
    """SHA-256 over the model's tensors with their names, types and shapes, hexadecimal.

    The same for the same weights, wherever they were read from: what tells runs that share a dense
    model.
    """
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _unfilled(model: nn.Module) -> nn.Module:
    """A copy whose memory was never written to, so that it takes none."""
    storages: dict[int, torch.UntypedStorage] = {}
    copies: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in storages:
            storages[storage.data_ptr()] = torch.UntypedStorage(storage.nbytes())
        blank = torch.empty(0, dtype=tensor.dtype)
        blank.set_(
            storages[storage.data_ptr()], tensor.storage_offset(), tensor.shape, tensor.stride()
        )
        is_parameter = isinstance(tensor, nn.Parameter)
        copies[id(tensor)] = nn.Parameter(blank, requires_grad=False) if is_parameter else blank
    return copy.deepcopy(model, copies)
