"""What a run ran on: machine, library versions, commit."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

PACKAGES = (
    "mmcompress",
    "torch",
    "torchvision",
    "open_clip_torch",
    "transformers",
    "pytorch-lightning",
    "hydra-core",
    "safetensors",
    "numpy",
    "zstandard",
    "wandb",
)


def versions() -> dict[str, str]:
    """Of Python and of every package in `PACKAGES` that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware(gpu: str | None) -> dict[str, Any]:
    """`cpu` (model), `cores` that this process may use, `ram_bytes`, `gpu` (name or None).

    Args:
        gpu: what `system.devices.gpu_name` says; this room does without torch.
    """
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "ram_bytes": _ram_bytes(),
        "gpu": gpu,
    }


def git_commit() -> str | None:
    """Commit of the checkout that this package runs from, `-dirty` behind it when edited.

    None where there is no git, no checkout, or the package is only installed inside one.
    """
    package = Path(__file__).resolve().parents[1]
    if _git("ls-files", "--error-unmatch", "__init__.py", folder=package) is None:
        return None
    return _git("describe", "--always", "--dirty", "--abbrev=40", "--exclude=*", folder=package)


def peak_memory_bytes() -> int | None:
    """Largest resident size that this process has had; None on Windows, which does not say."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _git(*arguments: str, folder: Path) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _cpu_model() -> str:
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _ram_bytes() -> int | None:
    if sys.platform == "win32":
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
