"""How the process gets its memory from the operating system."""

import ctypes
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4
"""Of `mallopt`, see its manual page."""


def keep_freed_memory() -> None:
    """Let the C library keep memory that is freed, for the same sizes are needed at the next step.

    By default glibc hands large blocks back, and the kernel clears every page of new ones: on a CPU
    that takes as long as a pass of arithmetic over them. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)
