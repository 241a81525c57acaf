"""How long commands take to start, as a ratio to `import torch` on this machine.

What is measured are processor seconds, which other processes disturb less than the clock.
"""

import os
import statistics
import subprocess
import sys

import pytest

from mmcompress.system.locations import project_path

ROUNDS = 5
SLACK = 1.3
"""Of the ratio: caches and clock rates are shared with other processes."""

CLI = [str(project_path("mmcompress/cli.py"))]
TRAIN = [str(project_path("train.py"))]


def start(words: list[str]) -> tuple[float, str]:
    """Processor seconds of `python WORDS`, and what it printed."""
    before = os.times()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    after = os.times()
    user = after.children_user - before.children_user
    return user + after.children_system - before.children_system, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "ratio", "said"),
    [
        ([*CLI, "--help"], 0.5, "inspect"),
        ([*CLI, "recipes"], 0.5, "wanda"),
        ([*TRAIN, "--help"], 0.5, "compression="),
        ([*TRAIN, "compression=lowrnk"], 1.0, "did you mean lowrank?"),
        ([*TRAIN, "compression.steps.lowrank.rank_ratoi=0.2"], 1.0, "did you mean rank_ratio?"),
        # The first thing a run makes is the model. That a recipe does not fit it can only be said
        # when it stands there: this also counts making it, and the end of the process.
        ([*TRAIN, "compression.steps.lowrank.role=mpl.*"], 3.0, "'mpl.*' matched 0 of"),
    ],
    ids=["help", "recipes", "train help", "misspelt recipe", "misspelt key", "the model is built"],
)
def test_starting_takes_its_share_of_importing_torch(
    words: list[str], ratio: float, said: str
) -> None:
    torch, ours = [], []
    for _ in range(ROUNDS):
        torch.append(start(["-c", "import torch"])[0])
        seconds, printed = start(words)
        assert said in printed
        ours.append(seconds)
    assert statistics.median(ours) < SLACK * ratio * statistics.median(torch)
