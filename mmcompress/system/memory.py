"""How the process gets memory from the operating system, and hands it back.

No other file knows of mapped files or of the C library's allocator. Weights that two models have in
common lie once in memory; what a run no longer needs is handed back at the end of each stage, and
while an artifact is written; what a training step frees is kept for the next one.
"""

import copy
import ctypes
import mmap
import platform
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn

from mmcompress.system.files import room_for

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")

LARGE = 2**20
"""Bytes from which a tensor is worth pages of its own."""

HELD = 2**26
"""Bytes that are worked on before `handing_back` hands memory back."""

PRESENT_FILE_PAGE = np.uint64(0b101 << 61)
"""Bits 63 and 61 of an entry of `/proc/self/pagemap`: in memory, and a file's, not written to."""

_maps: WeakSet[mmap.mmap] = WeakSet()
"""Those that `dense_copy` has made, as long as a weight lies in them."""

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
            # Whole pages: it is aligned, and a write to a neighbor does not copy a part of it.
            start = -(-file.tell() // mmap.PAGESIZE) * mmap.PAGESIZE
            places[name] = start, tensor.shape, tensor.dtype
            file.seek(start)
            file.write(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
        file.flush()
        for tensors_of_map in found if places else ():
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            _maps.add(buffer)
            for name, (start, shape, dtype) in places.items():
                flat = torch.frombuffer(buffer, dtype=dtype, count=shape.numel(), offset=start)
                tensors_of_map[name] = flat.view(shape)
    return found


def hand_back_memory() -> None:
    """Hand back what is free, and the pages of weights that `dense_copy` put into its file.

    These are read again when they are used. Pages that have been written to are the model's own,
    and stay; where the kernel does not say which they are, all stay. Nothing may write to these
    weights meanwhile. glibc keeps what lies between blocks in use until it is told; other C
    libraries are left alone.
    """
    if _has_glibc():
        ctypes.CDLL(None).malloc_trim(0)
    for buffer in _maps:
        _drop_unwritten_pages(buffer)


def handing_back(items: Iterable[T], size: Callable[[T], int]) -> Iterator[T]:
    """The items, while memory is handed back after each 64 MB of them.

    Args:
        size: bytes of an item.
    """
    used = 0
    for item in items:
        yield item
        used += size(item)
        if used >= HELD:
            hand_back_memory()
            used = 0


def _drop_unwritten_pages(buffer: mmap.mmap) -> None:
    start = ctypes.addressof(ctypes.c_char.from_buffer(buffer)) // mmap.PAGESIZE
    pages = -(-len(buffer) // mmap.PAGESIZE)
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            pagemap.seek(8 * start)
            entries = np.frombuffer(pagemap.read(8 * pages), np.uint64)
    except OSError:  # not Linux, or a container that does not show it
        return
    unwritten = (entries & PRESENT_FILE_PAGE) == PRESENT_FILE_PAGE
    edges = np.flatnonzero(np.diff(np.pad(unwritten.astype(np.int8), 1))) * mmap.PAGESIZE
    for begin, end in edges.reshape(-1, 2).tolist():
        buffer.madvise(mmap.MADV_DONTNEED, begin, end - begin)


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


def _set(options: Mapping[int, int]) -> None:
    if _has_glibc():
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)


def _has_glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"
