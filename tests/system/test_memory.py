"""Freed memory stays with the process, or is handed back, as it is told."""

import platform
import subprocess
import sys

import pytest

from mmcompress.system import memory

FAULTS = """
import resource, sys, torch
from mmcompress.system.memory import free_as_usual, keep_freed_memory
if sys.argv[1] != "leave":
    keep_freed_memory()
if sys.argv[1] == "usual":
    free_as_usual()
weights = [torch.randn(2**20) for _ in range(30)]
def step():
    [weight * 2 for weight in weights]
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    products = [weight * 2 for weight in weights]
    del products
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is done without glibc")
def test_the_kernel_is_not_asked_again() -> None:
    faults = {
        how: int(subprocess.check_output([sys.executable, "-c", FAULTS, how], text=True))
        for how in ("keep", "leave", "usual")
    }
    assert faults["keep"] < 0.6 * min(faults["leave"], faults["usual"]), faults


HOLES = """
import sys, torch
from pathlib import Path
from mmcompress.system import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

torch.ones(2**23 - 2**12)  # glibc takes all that is smaller out of its heap from now on
before = resident()
model = [torch.ones(2**20) for _ in range(40)]
stays = [torch.ones(2**16) for _ in range(20)]  # above it in the heap
del model
if sys.argv[1] == "hand_back":
    memory.hand_back_memory()
if sys.argv[1] == "between":
    list(memory.handing_back([memory.HELD], int))
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is read from /proc")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is done without glibc")
def test_freed_memory_is_handed_back() -> None:
    kept = {
        how: int(subprocess.check_output([sys.executable, "-c", HOLES, how], text=True))
        for how in ("hand_back", "between", "leave")
    }
    model = 40 * 4 * 2**20
    assert kept["leave"] > 0.9 * model, kept
    assert max(kept["hand_back"], kept["between"]) < 0.1 * model, kept


def test_memory_is_handed_back_after_each_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    done: list[int] = []
    monkeypatch.setattr(memory, "HELD", 10)
    monkeypatch.setattr(memory, "hand_back_memory", lambda: done.append(len(given)))
    for size in memory.handing_back([4, 5, 1, 20, 9], int):
        given.append(size)
    assert given == [4, 5, 1, 20, 9]
    assert done == [3, 4]
