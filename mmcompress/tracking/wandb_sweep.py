"""One of W&B's own sweeps is created, and what its server proposes is run.

The server remembers what has run, hence the agent may be stopped and started as one likes. Without
a server, `python train.py sweep=optuna_pareto` does the like.
"""

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import wandb
import yaml

from mmcompress.system.locations import project_path
from mmcompress.tracking.weights_and_biases import wandb_mode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep", help="a YAML file of W&B's, or the ID of a sweep")
    parser.add_argument("--project", default="mmcompress")
    parser.add_argument("--entity", help="user or team; your own by default")
    parser.add_argument("--count", type=int, help="runs, no limit by default")
    args = parser.parse_args()
    if wandb_mode() != "online":
        sys.exit(
            "error: W&B's sweeps need its server: run `wandb login`, or take Hydra's own, such as "
            "python train.py sweep=optuna_pareto"
        )
    sweep_id = args.sweep
    if Path(sweep_id).suffix in (".yaml", ".yml"):
        sweep_id = wandb.sweep(read(Path(sweep_id)), entity=args.entity, project=args.project)
    where = "/".join(part for part in (args.entity, args.project, sweep_id) if part)
    limit = [] if args.count is None else ["--count", str(args.count)]
    done = subprocess.run([sys.executable, "-m", "wandb", "agent", *limit, where], check=False)
    sys.exit(done.returncode)


def read(path: Path) -> dict[str, Any]:
    """The sweep in a file, with the path of `train.py` in full, so that agents start anywhere."""
    try:
        sweep = yaml.safe_load(path.read_text())
    except OSError as error:
        sys.exit(f"error: {path} cannot be read ({error.strerror}): name a file, or a sweep's ID")
    return sweep | {"program": str(project_path(sweep["program"]).resolve())}
