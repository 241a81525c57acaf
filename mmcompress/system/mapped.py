"""Large weights in a temporary file that is mapped into memory.

They take memory while they are used, page by page, and none otherwise (`system.memory`): a
model fits where one of its layers does. A map is private: what is written to a weight is seen by
nobody else, neither the file nor another map of it.
"""

import copy
import mmap
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmcompress.system.files import room_for
from mmcompress.system.memory import LARGE, give_back, give_back_freed_memory

M = TypeVar("M", bound=nn.Module)


def mapped(tensors: Iterable[tuple[str, Tensor]], *, maps: int = 1) -> list[dict[str, Tensor]]:
    """Put tensors into a file that has no name and ends with the last of them.

    Args:
        tensors: by name, on the CPU; each is needed only until the next is asked for.
        maps: how many to make of the file.
    Returns:
        The tensors in each map, contiguous; small ones are copies.
    Raises:
        FullDisk: the temporary folder has no room for them.
    """
    found: list[dict[str, Tensor]] = [{} for _ in range(maps)]
    places: dict[str, tuple[int, torch.Size, torch.dtype]] = {}
    with _room(), tempfile.TemporaryFile() as file:
        for name, tensor in tensors:
            if tensor.nbytes < LARGE:
                for tensors_of_map in found:
                    tensors_of_map[name] = tensor.clone()
                continue
            # A page of its own, so that it is aligned, and that giving it back is no neighbor's.
            start = -(-file.tell() // mmap.PAGESIZE) * mmap.PAGESIZE
            places[name] = start, tensor.shape, tensor.dtype
            file.seek(start)
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
            give_back([tensor])
        file.flush()
        for tensors_of_map in found if places else []:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            for name, (start, shape, dtype) in places.items():
                flat = torch.frombuffer(buffer, dtype=dtype, count=shape.numel(), offset=start)
                tensors_of_map[name] = flat.view(shape)
    give_back_freed_memory()
    return found


def _room() -> AbstractContextManager[None]:
    folder = Path(tempfile.gettempdir())
    return room_for(folder / "weights", "make room there, or name another folder in TMPDIR")


def mapped_copy(model: M) -> M:
    """A copy of the model. The weights of both lie in one file, and either may change its own.

    Args:
        model: on the CPU; its weights move into the file.
    """
    owners: dict[tuple[Any, ...], str] = {}
    names: dict[str, str] = {}
    """Of a weight → of the one that lies in the same memory, itself when its own."""
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        place = weight.data_ptr(), weight.shape, weight.stride()
        names[name] = owners.setdefault(place, name)
    moved = ((name, weights[name].detach()) for name in owners.values())
    own, other = mapped(moved, maps=2)
    copies: dict[int, Any] = {}
    for name, weight in weights.items():
        weight.data = own[names[name]]
        copies[id(weight)] = nn.Parameter(other[names[name]], weight.requires_grad)
    give_back_freed_memory()
    return copy.deepcopy(model, copies)


@contextmanager
def layer_by_layer(model: nn.Module) -> Iterator[None]:
    """Let each layer of the model give the memory of its mapped weights back once it has run."""

    def give_back_weights(module: nn.Module, *_: Any) -> None:
        give_back(module._parameters.values())

    owners = [
        module
        for module in model.modules()
        if any(p is not None and p.nbytes >= LARGE for p in module._parameters.values())
    ]
    handles = [module.register_forward_hook(give_back_weights) for module in owners]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
