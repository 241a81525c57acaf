"""Our seeding is Lightning's, which is too long to import for it."""

import os
import random

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from mmcompress.system.seeds import seed_everything


def drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_seed_everything_does_what_lightning_does(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS")
    for name in names:
        monkeypatch.setenv(name, "unset")
    pl.seed_everything(7, workers=True, verbose=False)
    expected = drawn(), [os.environ[name] for name in names]
    for name in names:
        monkeypatch.setenv(name, "unset")
    seed_everything(7)
    assert (drawn(), [os.environ[name] for name in names]) == expected
