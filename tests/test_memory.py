"""Freed memory stays with the process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from mmcompress.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
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
        for how in ("keep", "leave")
    }
    assert faults["keep"] < 0.6 * faults["leave"], faults
