"""How the process gets its memory from the operating system, and gives it back."""

import ctypes
import mmap
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import RawIOBase
from pathlib import Path

import numpy as np
from torch import Tensor

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
M_MMAP_MAX = -4
"""Of `mallopt`, see its manual page."""

MMAP_MAX = 65536
"""glibc's default."""

LARGE = 2**20
"""Bytes from which a tensor is worth pages of its own."""

HIGHEST_MMAP_THRESHOLD = 2**25
"""Bytes up to which glibc raises its threshold by itself, as blocks of that size are freed."""

PRESENT_FILE_PAGE = np.uint64(0b101 << 61)
"""Bits 63 and 61 of an entry of `/proc/self/pagemap`: in memory, and a file's, not written to."""


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
    """Let each large block that is allocated meanwhile have pages that go when it is freed.

    For weights that are worked on one after the other, and a model that is read and then moved
    into a file (`system.mapped`). By default glibc takes blocks of up to 32 MiB out of its
    heap, once it has seen a larger one freed: what is left there are holes among small blocks,
    which keep the pages of all that is ever put into them. Also a decorator.
    """
    _set({M_MMAP_MAX: MMAP_MAX, M_MMAP_THRESHOLD: LARGE})
    try:
        yield
    finally:
        free_as_usual()


def _set(options: Mapping[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        for option, value in options.items():
            ctypes.CDLL(None).mallopt(option, value)


def give_back_freed_memory() -> None:
    """Let the C library hand back what is free between blocks in use; glibc keeps it by itself."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def give_back(tensors: Iterable[Tensor | None]) -> None:
    """Give back the memory of what a file holds: it is read again where it is needed again.

    Pages that have been written to are the process's own, and stay. Tensors that lie in no mapped
    file, or on another device, are left alone; so are all where the kernel is not Linux, which
    alone says which page is which. Nothing may write to the tensors meanwhile.
    """
    if sys.platform != "linux":
        return
    try:
        with Path("/proc/self/pagemap").open("rb", buffering=0) as pagemap:
            for tensor in tensors:
                if tensor is not None and tensor.device.type == "cpu":
                    _give_back(tensor.data_ptr(), tensor.nbytes, pagemap)
    except OSError:  # not every container shows it
        return


def _give_back(start: int, size: int, pagemap: RawIOBase) -> None:
    first, last = start // mmap.PAGESIZE, -(-(start + size) // mmap.PAGESIZE)
    pagemap.seek(8 * first)
    entries = np.frombuffer(pagemap.read(8 * (last - first)) or b"", np.uint64)
    ours = (entries & PRESENT_FILE_PAGE) == PRESENT_FILE_PAGE
    edges = np.flatnonzero(np.diff(np.pad(ours.astype(np.int8), 1)))
    for begin, end in edges.reshape(-1, 2).tolist():
        place = ctypes.c_void_p((first + begin) * mmap.PAGESIZE)
        length = ctypes.c_size_t((end - begin) * mmap.PAGESIZE)
        ctypes.CDLL(None).madvise(place, length, mmap.MADV_DONTNEED)  # advice; locked pages stay
