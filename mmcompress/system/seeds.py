"""Random numbers that depend on what they are for, and not on what was drawn before."""

import hashlib
import json
import os
import random

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch as Lightning's `seed_everything(workers=True)` does, without the
    import of Lightning.

    Args:
        seed: workers of loaders and processes that Lightning starts read it from the environment.
    """
    os.environ["PL_GLOBAL_SEED"], os.environ["PL_SEED_WORKERS"] = str(seed), "1"
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def seed_from(*values: object) -> None:
    """Set the random numbers of Python, NumPy and torch to a state that `values` alone decide.

    A run that goes on from a checkpoint then draws what it would have drawn, with nothing to store:
    the seed and the number of the step say it all.

    Args:
        *values: JSON.

    Example:
        >>> seed_from(0, "step", 7)
        >>> first = random.random(), float(np.random.rand()), float(torch.rand(()))
        >>> seed_from(0, "step", 7)
        >>> (random.random(), float(np.random.rand()), float(torch.rand(()))) == first
        True
    """
    digest = hashlib.sha256(json.dumps(values).encode()).digest()
    random.seed(digest)
    np.random.seed(np.frombuffer(digest, dtype=np.uint32))
    torch.manual_seed(int.from_bytes(digest[:8], "little", signed=True))
