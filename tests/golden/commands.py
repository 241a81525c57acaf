"""Five runs and a sweep of two, and what must not change of them while the code is rearranged.

    python -m tests.golden.commands FOLDER                 # runs them all, prints golden.json
    python -m tests.golden.commands FOLDER --only vq       # runs some, and prints what they are now

Another processor, or another version of torch, rounds otherwise: `golden.json` says of which it is.
"""

import argparse
import csv
import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors import safe_open

from mmcompress.records.environment import hardware, versions

SHORT = ["trainer.max_steps=8", "logger=none", "evaluation.latency.batch_sizes=[1]"]

RUNS = {
    "lowrank": ["compression=lowrank", *SHORT],
    "int4": ["compression=int4", *SHORT],
    "deep": ["compression=deep", *SHORT],
    "vq": ["compression=vq", *SHORT],
    "best_post_training": ["experiment=best_post_training", *SHORT[1:]],
}
SWEEP = [
    *["-m", "sweep=lowrank_rank", "compression.steps.lowrank.rank_ratio=0.2,0.5"],
    *["trainer.max_steps=4", *SHORT[1:]],
]
ACCURACIES = ("recipe", "seeds", "retrieval/", "zeroshot/", "delta/", "dense/")
"""How columns of a report begin that hold neither bytes nor milliseconds."""


def machine() -> dict[str, str]:
    """What has a say in the last bit."""
    return {"cpu": hardware(None)["cpu"], "torch": versions()["torch"]}


def train(folder: Path, *overrides: str, key: str = "run_dir") -> None:
    """One command, as a user gives it."""
    command = [sys.executable, "train.py", *overrides, f"{key}={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def of_run(folder: Path) -> dict[str, Any]:
    """Checksums of what is stored, and the metrics of the model that was read back."""
    record = json.loads((folder / "run.json").read_text())
    return {"stored": stored(folder / "artifact"), "metrics": record["metrics"]}


def stored(artifact: Path) -> dict[str, str]:
    """SHA-256 of each tensor of the artifact's file, by name."""
    with safe_open(artifact / "model.safetensors", framework="np") as tensors:
        return {
            name: hashlib.sha256(tensors.get_tensor(name).tobytes()).hexdigest()
            for name in sorted(tensors.keys())
        }


def of_sweep(folder: Path) -> dict[str, Any]:
    """Its records and the accuracies of its report."""
    found = {}
    for path in sorted(folder.glob("*/run.json")):
        config = json.loads(path.read_text())["config"]
        ratio = config["compression"]["steps"]["lowrank"]["rank_ratio"]
        found[str(ratio)] = of_run(path.parent)
    command = [sys.executable, "-m", "mmcompress.cli", "report", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    with (folder / "report" / "recipes.csv").open() as file:
        rows = list(csv.DictReader(file))
    table = [{k: v for k, v in row.items() if k.startswith(ACCURACIES)} for row in rows]
    return {"runs": found, "report": table}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="for the runs")
    names = [*RUNS, "sweep"]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="NAME")
    args = parser.parse_args()
    folder, found = args.folder.resolve(), {"machine": machine()}
    for name in args.only:
        if name == "sweep":
            train(folder / name, *SWEEP, key="hydra.sweep.dir")
            found[name] = of_sweep(folder / name)
        else:
            train(folder / name, *RUNS[name])
            found[name] = of_run(folder / name)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
