"""What compression costs on a model of full size: time and memory, on this machine.

    python scripts/benchmark_speed.py --out docs/results

Calibration methods: wall time of `recipe.apply` and peak memory of the process, before it and in
all, each in a process of its own. Training: one step with the recipe against one dense step, in
turn in one process, median. The model is open_clip's ViT-B-32 with random weights, which cost the
same as trained ones; the pairs are OpenMoji's.
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from torch import Tensor
from torch.nn.utils import parametrize

from mmcompress.backbones.base import Backbone
from mmcompress.compression.compressed import Compressed
from mmcompress.compression.recipe import Recipe
from mmcompress.config.compose import compose_config
from mmcompress.config.errors import in_one_sentence
from mmcompress.functional.contrastive import contrastive_loss
from mmcompress.records.environment import hardware, peak_memory_bytes, versions
from mmcompress.runtime.latency import alternate
from mmcompress.system.devices import gpu_name
from mmcompress.system.files import write_atomically, write_json
from mmcompress.system.memory import keep_freed_memory
from mmcompress.training.module import parameter_groups

CALIBRATED = {
    "GPTQ, 4 bits": ["compression=gptq", "compression.steps.gptq.bits=4"],
    "whitened SVD": ["compression=lowrank", "compression.steps.lowrank.rank_ratio=0.25"],
}
TRAINED = {
    "low rank, ratio 0.25": ["compression=lowrank", "compression.steps.lowrank.rank_ratio=0.25"],
    "int4": ["compression=int4"],
    "LSQ": ["compression=lsq"],
    "binary": ["compression=binary"],
    "magnitude": ["compression=magnitude"],
    "movement": ["compression=movement"],
    "cluster": ["compression=cluster"],
    "magnitude + int4": ["compression=magnitude_int4"],
}
MODEL = ["backbone=open_clip", "backbone.name=ViT-B-32", "backbone.pretrained=null"]
PAIRS = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for speed.md and speed.json")
    parser.add_argument("--batch", type=int, default=16, help="pairs per training step")
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing per recipe")
    parser.add_argument("--model", nargs="+", default=MODEL, help="overrides that name the model")
    parser.add_argument("--only", nargs="+", help="names of rows to measure; all by default")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        kind, name = args.child
        measured = calibrate(name, args) if kind == "calibrated" else train(name, args)
        print(json.dumps(measured))
        return
    rows = [("calibrated", name) for name in CALIBRATED] + [("trained", name) for name in TRAINED]
    results: dict[str, dict[str, Any]] = {"calibrated": {}, "trained": {}}
    for number, (kind, name) in enumerate(rows, start=1):
        if args.only and name not in args.only:
            continue
        print(f"[{number}/{len(rows)}] {name}", file=sys.stderr, flush=True)
        results[kind][name] = run_child(kind, name)
    table = to_markdown(results)
    print(table, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        record = results | {
            "hardware": hardware(gpu_name()),
            "versions": versions(),
            "command": sys.argv,
        }
        write_json(args.out / "speed.json", record)
        write_atomically(args.out / "speed.md", lambda file: file.write(table.encode()))


def run_child(kind: str, name: str) -> dict[str, Any]:
    """Measure one row in a fresh process, so that memory of another does not count."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", kind, name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"error: {name} could not be measured, see the message above")
    return json.loads(done.stdout.splitlines()[-1])


@in_one_sentence
def calibrate(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes that `recipe.apply` takes."""
    backbone, recipe, batches = build([*args.model, *CALIBRATED[name]])
    dense_bytes = sum(p.nbytes for p in backbone.parameters())
    before = peak_memory_bytes()
    start = time.perf_counter()
    recipe.apply(backbone, batches)
    return {
        "seconds": time.perf_counter() - start,
        "dense_bytes": dense_bytes,
        "peak_before_bytes": before,
        "peak_bytes": peak_memory_bytes(),
        "pairs": PAIRS,
        "threads": torch.get_num_threads(),
    }


@in_one_sentence
def train(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of a dense step and of a step with the recipe."""
    keep_freed_memory()
    backbone, recipe, batches = build([*args.model, *TRAINED[name]])
    dense = copy.deepcopy(backbone)
    compressed = recipe.apply(backbone, batches)
    batch = {key: value[: args.batch] for key, value in batches[0].items()}
    workloads = {
        "dense": training_step(Recipe().restore(dense, {}), batch),
        "compressed": training_step(compressed, batch),
    }
    medians = alternate(workloads, seconds=args.seconds)
    return {
        "dense_ms": 1e3 * medians["dense"],
        "compressed_ms": 1e3 * medians["compressed"],
        "ratio": medians["compressed"] / medians["dense"],
        "batch": args.batch,
        "threads": torch.get_num_threads(),
    }


def build(overrides: list[str]) -> tuple[Backbone, Recipe, list[dict[str, Tensor]]]:
    """The model, the recipe and the calibration batches of a configuration."""
    cfg = compose_config(*overrides, f"data.calibration_size={PAIRS}")
    backbone, recipe, data = (instantiate(cfg[k]) for k in ("backbone", "compression", "data"))
    data.attach(backbone)
    return backbone, recipe, list(data.calibration_dataloader())


def training_step(compressed: Compressed, batch: dict[str, Tensor]) -> Callable[[], None]:
    """One step as `CompressionModule` takes it: both towers, contrastive loss, AdamW."""
    backbone = compressed.backbone.train()
    optimizer = torch.optim.AdamW(parameter_groups(backbone), lr=1e-5)

    def step() -> None:
        compressed.on_step(1.0)
        with parametrize.cached():
            first, second = (backbone.encode(m, batch[m]) for m in backbone.modalities)
        loss = contrastive_loss(first, second, backbone.logit_scale) + compressed.penalty()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def to_markdown(results: dict[str, dict[str, Any]]) -> str:
    """Both tables."""
    lines = [
        "| calibration | seconds | peak memory (GB) | before it: libraries, model, pairs (GB) |",
        "|---|---|---|---|",
    ]
    for name, row in results["calibrated"].items():
        peak, before = row["peak_bytes"] / 1e9, row["peak_before_bytes"] / 1e9
        lines.append(f"| {name} | {row['seconds']:.0f} | {peak:.2f} | {before:.2f} |")
    lines += ["", "| training step | dense (ms) | compressed (ms) | ratio |", "|---|---|---|---|"]
    for name, row in results["trained"].items():
        lines.append(
            f"| {name} | {row['dense_ms']:.0f} | {row['compressed_ms']:.0f} | {row['ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
