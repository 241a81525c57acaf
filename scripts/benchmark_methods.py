"""Every family at several strengths on the embedded benchmark: the README's tables and picture.

    python scripts/benchmark_methods.py --out docs/results [--peers docs/results/peers.json]

Three tables: all families (`methods`), a byte budget against one strength for all (`budget`), and
which tower should pay for one total (`towers`). Each row is one command `python train.py …`, with
three seeds where training is involved. A run whose exact configuration has finished is not
repeated, so an interrupted benchmark goes on where it stopped.
"""

import argparse
import json
import logging
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from mmcompress.config.compose import compose_config
from mmcompress.records.numerics import NUMERICS
from mmcompress.records.record import finished, read_records
from mmcompress.records.schema import FILE, Record, read
from mmcompress.records.settings import config_hash
from mmcompress.report.metrics import main_metric
from mmcompress.report.pictures import size_marks
from mmcompress.report.plot import SIZE, Mark, pareto_figure, save
from mmcompress.report.summary import Spread, summarize
from mmcompress.report.table import MAIN_METRIC, MEGABYTE, results_table
from mmcompress.system.files import write_atomically
from mmcompress.system.locations import project_path


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        family: whose line in the picture it belongs to.
        name: what the table calls it.
        overrides: of `train.py`.
        trained: fine-tuned, hence three seeds.
    """

    family: str
    name: str
    overrides: tuple[str, ...]
    trained: bool = False


def post(family: str, name: str, *overrides: str) -> Row:
    """A row without fine-tuning."""
    return Row(family, name, ("trainer=post_training", *overrides))


def tuned(family: str, name: str, *overrides: str) -> Row:
    """A row with fine-tuning."""
    return Row(family, name, overrides, trained=True)


def set_step(recipe: str, *settings: str) -> tuple[str, ...]:
    """`compression=recipe`, with arguments of the step of that name."""
    return (f"compression={recipe}", *(f"compression.steps.{recipe}.{s}" for s in settings))


def split(name: str, image: float, text: float, embedding: float) -> Row:
    """A grid of its own for each tower's layers and for the token embedding."""
    parts = {
        "image": f"step:{image},modality:image",
        "text": f"step:{text},modality:text,role:[attn.*,mlp.*,proj]",
        "embedding": f"step:{embedding},role:embed",
    }
    common = f"_target_:{ENTROPY},rounding:0.4,error_feedback:true"
    steps = [f"+compression.steps.{key}={{{common},{part}}}" for key, part in parts.items()]
    return post(name, name, *GRID, "compression.steps.entropy=null", *steps, AGREEMENT)


def allocated(ratio: int, step: float) -> tuple[Row, Row]:
    """Without fine-tuning, one step of the grid for all, and each layer's by the budget."""
    alike = post("uniform", f"{ratio}x, uniform", *GRID, f"{STEP}={step}", AGREEMENT)
    return alike, post("budget", f"{ratio}x, budget", *GRID, f"{BUDGET}={ratio}", AGREEMENT)


def allocated_then_tuned(ratio: int, step: float) -> tuple[Row, Row]:
    """The same with fine-tuning; what training makes of the bytes is in the table."""
    common = (*GRID, *SHORT, NO_FEEDBACK, AGREEMENT)
    alike = tuned("uniform", f"{ratio}x, uniform, tuned", *common, f"{STEP}={step}")
    choices = ",".join(f"{{entropy:{{step:{factor * step:.3g}}}}}" for factor in BAND)
    limits = (f"{BUDGET}={ratio}", f"budget.choices=[{choices}]")
    return alike, tuned("budget", f"{ratio}x, budget, tuned", *common, *limits)


FINE_TUNED = ("objective=strong", "optimizer.lr=5.0e-4", "trainer.max_steps=100")
ENTROPY = "mmcompress.compression.quantization.entropy.Entropy"
SHORT = ("objective=strong", "optimizer.lr=5.0e-4", "trainer.max_steps=60")
GRID = (
    "compression=entropy",
    "compression.dense_dtype=float16",
    "compression.steps.entropy.rounding=0.4",
)
STEP = "compression.steps.entropy.step"
BUDGET = "budget.ratio"
NO_FEEDBACK = "compression.steps.entropy.error_feedback=false"
"""Error feedback makes codes that cost more, and training makes up for what it would have won."""

BAND = (0.65, 0.8, 1.0, 1.2, 1.4)
"""Steps to choose from, in those of the uniform row: training recovers what single layers lose, so
finer and coarser ones were worse on the validation split."""

AGREEMENT = "+evaluation.evaluators.agreement._target_=mmcompress.evaluation.agreement.Agreement"
COSINES = ("agreement/image_cosine", "agreement/text_cosine")

METHODS = (
    tuned("none", "none, 400 steps", "experiment=best_28x", "compression.steps.entropy=null"),
    post("sharing", "cluster 16", *set_step("cluster", "clusters=16")),
    post("sharing", "cluster 8", *set_step("cluster", "clusters=8")),
    post("sharing", "vq 256x4", *set_step("vq")),
    tuned("sharing", "dkm 8", *set_step("dkm", "clusters=8"), *FINE_TUNED),
    post("low rank", "lowrank 0.5", *set_step("lowrank", "rank_ratio=0.5")),
    post("low rank", "lowrank 0.34", *set_step("lowrank", "rank_ratio=0.34")),
    tuned("low rank", "lowrank 0.25", *set_step("lowrank", "rank_ratio=0.25"), *FINE_TUNED),
    post("pruning", "sparsegpt 0.5", *set_step("sparsegpt", "sparsity=0.5")),
    post("pruning", "sparsegpt 0.7", *set_step("sparsegpt", "sparsity=0.7")),
    post("pruning", "neurons 0.5", *set_step("neurons")),
    tuned("pruning", "magnitude 0.8", *set_step("magnitude", "sparsity=0.8"), *FINE_TUNED),
    tuned("pruning", "upop 0.5", *set_step("upop"), *FINE_TUNED),
    post("quantization", "int8", "compression=int8"),
    post("quantization", "gptq 4", *set_step("gptq", "bits=4")),
    post("quantization", "gptq 3", *set_step("gptq", "bits=3")),
    post("quantization", "gptq 2", *set_step("gptq", "bits=2", "group_size=32", "midrise=true")),
    tuned("quantization", "lsq 2", *set_step("lsq", "bits=2", "midrise=true"), *FINE_TUNED),
    tuned("quantization", "binary", *set_step("binary"), *FINE_TUNED),
    tuned(
        "quantization", "entropy 0.7", "experiment=best_28x", "compression.steps.entropy.step=0.7"
    ),
    tuned(
        "quantization", "entropy 1.5", "experiment=best_28x", "compression.steps.entropy.step=1.5"
    ),
    tuned("stack", "magnitude 0.5 + int4", "compression=magnitude_int4", *FINE_TUNED),
    tuned("stack", "minivit + int4", "compression=minivit_int4", *FINE_TUNED),
    post("best", "best_post_training", "experiment=best_post_training"),
    tuned("best", "best_28x", "experiment=best_28x"),
    tuned("best", "best_45x", "experiment=best_45x"),
)

# The uniform steps give the ratio or a little less, so that the budget has no more bytes.
ALLOCATION = (
    *allocated(8, 0.26),
    *allocated(12, 0.67),
    *allocated(16, 1.1),
    *allocated(24, 1.96),
    *allocated(32, 2.76),
    *allocated_then_tuned(16, 1.0),
    *allocated_then_tuned(24, 1.66),
    *allocated_then_tuned(32, 2.1),
)
TOWERS = (
    split("all alike", 1.1, 1.1, 1.1),
    split("image pays", 1.8, 0.628, 0.628),
    split("text pays", 0.861, 1.8, 0.861),
    split("token embedding pays", 1.067, 1.067, 1.8),
    split("token embedding spared", 1.171, 1.171, 0.5),
)
TABLES = {"methods": METHODS, "budget": ALLOCATION, "towers": TOWERS}
SEEDS = (0, 1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", choices=TABLES, help="all by default")
    parser.add_argument(
        "--runs", type=Path, default=Path("docs/results/records"), help="run folders"
    )
    parser.add_argument("--out", type=Path, help="folder for <table>.md and methods.png")
    parser.add_argument("--peers", type=Path, help="result of benchmark_peers.py, for the picture")
    parser.add_argument("--only", nargs="+", help="names of rows; all by default")
    parser.add_argument("--finished", action="store_true", help="run nothing, show what has run")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    for table in [args.table] if args.table else TABLES:
        rows = [row for row in TABLES[table] if not args.only or row.name in args.only]
        if rows:
            benchmark(table, rows, args)


def benchmark(table: str, rows: list[Row], args: argparse.Namespace) -> None:
    """Run what has not run, and make the table of these rows."""
    jobs = [(row, seed) for row in rows for seed in (SEEDS if row.trained else SEEDS[:1])]
    for number, (row, seed) in enumerate([] if args.finished else jobs, start=1):
        print(f"[{number}/{len(jobs)}] {row.name}, seed {seed}", file=sys.stderr, flush=True)
        run(row, seed, args.runs)
    records = [r for r in finished(read_records(args.runs)) if r.config["name"] in names(rows)]
    if not records:
        return
    text = results_table(records, more=() if table == "methods" else COSINES)
    print(text, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        write_atomically(args.out / f"{table}.md", lambda file: file.write(text.encode()))
        if table == "methods":
            draw(rows, records, args.peers, args.out / "methods.png")


def names(rows: list[Row]) -> set[str]:
    """What the runs of these rows are called."""
    return {row.name for row in rows}


def command_line(row: Row, seed: int, runs: Path) -> tuple[Path, list[str]]:
    """The run folder, and the overrides of `train.py`."""
    folder = runs / re.sub(r"[^\w.]+", "_", row.name) / str(seed)
    return folder, [*row.overrides, f"name='{row.name}'", f"seed={seed}", f"run_dir={folder}"]


def run(row: Row, seed: int, runs: Path) -> None:
    """One command, unless it has finished before with the same settings."""
    folder, overrides = command_line(row, seed, runs)
    if is_done(folder, overrides):
        return
    command = [sys.executable, str(project_path("train.py")), *overrides, "logger=none"]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    if done.returncode:
        sys.exit(f"error: {row.name} with seed {seed} failed: run {' '.join(command)}")


def is_done(folder: Path, overrides: list[str]) -> bool:
    """Whether the run in `folder` has finished, with this configuration and this numerics."""
    if not (folder / FILE).is_file():
        return False
    record = read(folder / FILE)
    plain: Any = OmegaConf.to_container(compose_config(*overrides), resolve=True)
    same = record.config_hash == config_hash(plain) and record.numerics == NUMERICS
    return record.status == "finished" and same


def draw(rows: list[Row], records: list[Record], peers: Path | None, path: Path) -> None:
    """One line per family, the peers of `benchmark_peers.py` as points."""
    families = {row.name: row.family for row in rows}
    metric = main_metric(records)  # records of earlier versions have another
    ours, dense = size_marks(summarize(records), metric)
    marks = [
        replace(mark, family=families.get(mark.label.partition(" (")[0], mark.family))
        for mark in ours.values()
    ]
    everything = marks + peer_marks(peers, metric)
    save(pareto_figure(everything, dense, metric, SIZE, width=5.6, height=4.0), path)


def peer_marks(path: Path | None, metric: str = MAIN_METRIC) -> list[Mark]:
    """Points of the JSON of `benchmark_peers.py` that have the metric, seeds together."""
    settings: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in json.loads(path.read_bytes())["results"] if path else []:
        if metric in (row.get("metrics") or {}):
            settings.setdefault((row["peer"], row["name"], row["trained"]), []).append(row)
    marks = []
    for rows in settings.values():
        size = Spread.of([row["bytes"] / MEGABYTE for row in rows])
        value = Spread.of([row["metrics"][metric] for row in rows])
        marks.append(Mark(size.mean, value.mean, value.std, family=rows[0]["peer"], peer=True))
    return marks


if __name__ == "__main__":
    main()
