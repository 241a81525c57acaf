"""How the process gets memory from the operating system, and hands it back.

No other file knows of mapped files or of the C library's allocator. Weights that two models have in
common lie once in memory; what a stage of a run has freed is handed back at its end; what a
training step frees is kept for the next one.
"""

import copy
import ctypes
import mmap
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mmcompress.system.files import room_for

M = TypeVar("M", bound=nn.Module)

LARGE = 2**20
"""Bytes from which a tensor is worth pages of its own."""

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
"""Of `mallopt`, see its manual page."""

MMAP_MAX = 65536
"""glibc's default."""

HIGHEST_MMAP_THRESHOLD = 2**25
"""Bytes up to which glibc raises its threshold by itself, as blocks of that size are freed."""


def dense_copy(model: M) -> M:
    """A copy of the model as it is now; a weight takes memory twice only once one of the two models
    has changed it.

    The weights of both move into a temporary file without a name, which each of them maps: pages
    that neither has written to are the same memory.

    Args:
        model: on the CPU.
    Raises:
        FullDisk: the temporary folder has no room for the weights.
    """
    owners: dict[tuple[Any, ...], str] = {}
    names: dict[str, str] = {}
    """Of a weight → of the one that lies in the same memory, itself when its own."""
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        place = weight.data_ptr(), weight.shape, weight.stride()
        names[name] = owners.setdefault(place, name)
    own, other = _mapped_twice((name, weights[name].detach()) for name in owners.values())
    copies: dict[int, Any] = {}
    for name, weight in weights.items():
        weight.data = own[names[name]]
        copies[id(weight)] = nn.Parameter(other[names[name]], weight.requires_grad)
    return copy.deepcopy(model, copies)


def _mapped_twice(
    tensors: Iterable[tuple[str, Tensor]],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors in two private maps of one file, contiguous; small ones are copies."""
    found: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
    places: dict[str, tuple[int, torch.Size, torch.dtype]] = {}
    folder = Path(tempfile.gettempdir())
    fix = "make room there, or name another folder in TMPDIR"
    with room_for(folder / "weights", fix), tempfile.TemporaryFile() as file:
        for name, tensor in tensors:
            if tensor.nbytes < LARGE:
                for tensors_of_map in found:
                    tensors_of_map[name] = tensor.clone()
                continue
            # Whole pages: it is aligned, and a write to a neighbour does not copy a part of it.
            start = -(-file.tell() // mmap.PAGESIZE) * mmap.PAGESIZE
            places[name] = start, tensor.shape, tensor.dtype
            file.seek(start)
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        file.flush()
        for tensors_of_map in found if places else ():
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            for name, (start, shape, dtype) in places.items():
                flat = torch.frombuffer(buffer, dtype=dtype, count=shape.numel(), offset=start)
                tensors_of_map[name] = flat.view(shape)
    return found


def hand_back_freed_memory() -> None:
    """Let the C library hand back what is free; glibc keeps what lies between blocks in use."""
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)


def keep_freed_memory() -> None:
    """Let the C library keep memory that is freed, for the same sizes are needed at the next step.

    By default glibc hands large blocks back, and the kernel clears every page of new ones: on a CPU
    that takes as long as a pass of arithmetic over them. Other C libraries are left alone.
    """
    _set({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: -1})


def free_as_usual() -> None:
    """Let glibc hand back what it does by itself once a large model has been in its heap."""
    usual = HIGHEST_MMAP_THRESHOLD
    _set({M_MMAP_MAX: MMAP_MAX, M_MMAP_THRESHOLD: usual, M_TRIM_THRESHOLD: 2 * usual})


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Within it each large block has pages of its own, which go when it is freed. A decorator too.

    For work on one weight after the other. By default glibc takes blocks of up to 32 MiB out of its
    heap, once it has seen a larger one freed, and keeps the pages of all that has ever been there.
    """
    _set({M_MMAP_MAX: MMAP_MAX, M_MMAP_THRESHOLD: LARGE})
    try:
        yield
    finally:
        free_as_usual()


def _set(options: Mapping[int, int]) -> None:
    if _has_glibc():
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
