"""How long commands take to start, as a ratio to `import torch` on this machine."""

import statistics
import subprocess
import sys
import time

import pytest

from mmcompress.system.locations import project_path

ROUNDS = 5
SLACK = 1.3
"""Of the ratio: other processes come and go while this is measured."""

CLI = [str(project_path("mmcompress/cli.py"))]
TRAIN = [str(project_path("train.py"))]


def seconds(words: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, *words], capture_output=True, check=False)
    return time.perf_counter() - begin


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "ratio"),
    [
        ([*CLI, "--help"], 0.5),
        ([*TRAIN, "--help"], 0.5),
        ([*TRAIN, "compression=lowrnk"], 1.0),
        ([*TRAIN, "compression.steps.lowrank.rank_ratoi=0.2"], 1.0),
        # It ought to be 3. Lightning's torchmetrics imports torchvision, transformers and scipy,
        # and it is 3.6 on an idle machine: this row only says when it becomes more.
        (["-c", "import mmcompress.experiment"], 3.6),
    ],
    ids=["help", "train help", "misspelt recipe", "misspelt key", "the line"],
)
def test_starting_takes_its_share_of_importing_torch(words: list[str], ratio: float) -> None:
    torch, ours = [], []
    for _ in range(ROUNDS):
        torch.append(seconds(["-c", "import torch"]))
        ours.append(seconds(words))
    assert statistics.median(ours) < SLACK * ratio * statistics.median(torch)
