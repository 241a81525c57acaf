"""Freed memory stays with the process, that of files is given back."""

import mmap
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mmcompress.system.mapped import mapped
from mmcompress.system.memory import give_back

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
import contextlib, sys, torch
from pathlib import Path
from mmcompress.system.memory import give_back_freed_memory, large_blocks_apart

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

torch.ones(2**23 - 2**12)  # glibc takes all that is smaller out of its heap from now on
with large_blocks_apart() if sys.argv[1] == "apart" else contextlib.nullcontext():
    model = [torch.ones(2**20) for _ in range(40)]
    stays = [torch.ones(2**16) for _ in range(20)]  # above it in the heap
del model
give_back_freed_memory()
before = resident()
[torch.ones(10 * 2**20) for _ in range(3)]
print(resident() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what a process takes is read from /proc")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="nothing is done without glibc")
def test_a_model_leaves_no_holes() -> None:
    kept = {
        how: int(subprocess.check_output([sys.executable, "-c", HOLES, how], text=True))
        for how in ("apart", "leave")
    }
    assert kept["apart"] < 0.2 * kept["leave"], kept


def test_pages_of_a_file_are_given_back_and_written_ones_stay(
    resident: Callable[[Tensor], int],
) -> None:
    (tensors,) = mapped([("weight", torch.arange(2**20, dtype=torch.float32))])
    weight = tensors["weight"]
    weight[2**19] = -1.0
    assert float(weight.sum()) != 0
    assert resident(weight) == weight.nbytes
    give_back([None, weight])
    assert resident(weight) == mmap.PAGESIZE
    assert weight[2**19] == -1.0
    weight[2**19] = 2**19
    assert torch.equal(weight, torch.arange(2**20, dtype=torch.float32))


def test_memory_that_no_file_holds_stays() -> None:
    tensors = [torch.rand(2**20), torch.rand(3), torch.empty(0), torch.empty(5, device="meta")]
    before = [tensor.clone() for tensor in tensors[:2]]
    give_back([*tensors, tensors[0][100::2]])
    assert all(map(torch.equal, tensors[:2], before))
