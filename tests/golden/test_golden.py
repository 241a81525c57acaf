"""Rearranging the code changes no stored byte and no metric."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.golden.commands import RUNS, SWEEP, machine, of_run, of_sweep, train

GOLDEN: dict[str, Any] = json.loads(Path(__file__).with_name("golden.json").read_text())

LONG = "best_post_training"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        machine() != GOLDEN["machine"], reason=f"golden.json is of {GOLDEN['machine']}"
    ),
]


@pytest.mark.parametrize("name", RUNS)
def test_the_same_bytes_and_metrics(name: str, tmp_path: Path) -> None:
    if name == LONG and os.environ.get("MMCOMPRESS_GOLDEN") != "all":
        pytest.skip("takes minutes: MMCOMPRESS_GOLDEN=all runs it too")
    train(tmp_path / name, *RUNS[name])
    assert of_run(tmp_path / name) == GOLDEN[name]


def test_the_same_sweep(tmp_path: Path) -> None:
    train(tmp_path / "sweep", *SWEEP, key="hydra.sweep.dir")
    assert of_sweep(tmp_path / "sweep") == GOLDEN["sweep"]
