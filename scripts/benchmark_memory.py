"""How much memory it takes to compress a model that does not fit twice, on this machine.

    python scripts/benchmark_memory.py --out docs/results

open_clip's ViT-L-14 with random weights, which cost the same as trained ones, is written to a
safetensors file; then `python train.py compression=int8 trainer=post_training` runs on it, from
reading the file to scoring what was stored. The peak is the one in its `run.json`. Its resident
size is read all the while, which says in which stage how much was needed. The pairs are OpenMoji's,
as files in a table.
"""

import argparse
import csv
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread
from typing import Any

import open_clip
import torch
from PIL import Image
from safetensors.torch import save_file

from mmcompress.config.errors import in_one_sentence
from mmcompress.data.openmoji import load_pairs, split_pairs
from mmcompress.records.environment import hardware, versions
from mmcompress.records.schema import FILE, read
from mmcompress.session import BEGINS, STAGE_LOG
from mmcompress.system.devices import gpu_name
from mmcompress.system.files import write_atomically, write_json

ALLOWED = 1e9
"""Bytes that may be needed beside those of the dense file."""

STAGES = {
    "libraries": "libraries",
    "dense": "model, pairs, dense baseline",
    "calibrate_s": "calibrate, edit",
    "fit_s": "fit (no step)",
    "save_s": "bake, encode, store",
    "load": "read back",
    "evaluate_s": "score, latency",
    "report": "report",
}
"""What goes on in the parts between which `train.py` takes the time."""

FOLLOWING = {"calibrate_s": "fit_s", "fit_s": "save_s", "save_s": "load", "evaluate_s": "report"}
"""The part that begins where one ends."""

PAGE = 4096


@in_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for memory.md and memory.json")
    parser.add_argument("--model", default="ViT-L-14", help="of open_clip.list_models()")
    parser.add_argument("--recipe", default="int8", help="of conf/compression/")
    parser.add_argument("--pairs", type=int, default=32, help="that are scored")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.make:
        write_inputs(args.model, args.pairs, args.make)
        return
    if args.run:
        run_train(args.run)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own: a process inherits the peak of the one that starts it.
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--make", name], check=True)
        result = measure(args, folder)
    table = to_markdown(result)
    print(table, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        record = result | {
            "hardware": hardware(gpu_name()),
            "versions": versions(),
            "command": sys.argv,
        }
        write_json(args.out / "memory.json", record)
        write_atomically(args.out / "memory.md", lambda file: file.write(table.encode()))


def write_inputs(model: str, pairs: int, folder: Path) -> None:
    """`model.safetensors`, and the tables `train.csv` and `test.csv` with their pictures."""
    torch.manual_seed(0)
    weights = open_clip.create_model(model, pretrained=None).state_dict()
    save_file({key: tensor.contiguous() for key, tensor in weights.items()}, folder / WEIGHTS)
    images, captions = load_pairs()
    for split, rows in split_pairs(captions).items():
        with (folder / f"{split}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", "caption"])
            for row in rows[:pairs]:
                Image.fromarray(images[row].permute(1, 2, 0).numpy()).save(folder / f"{row}.png")
                table.writerow([f"{row}.png", captions[row]])


WEIGHTS = "model.safetensors"


def overrides(args: argparse.Namespace, folder: Path) -> list[str]:
    """Of `train.py`."""
    return [
        "backbone=open_clip",
        f"backbone.name={args.model}",
        f"backbone.pretrained={folder / WEIGHTS}",
        f"compression={args.recipe}",
        "trainer=post_training",
        "data=table",
        *(f"data.files.{split}={folder / split}.csv" for split in ("train", "val", "test")),
        f"data.calibration_size={args.pairs}",
        "data.eval_batch_size=16",
        "data.num_workers=0",
        "logger=none",
        f"run_dir={folder / 'run'}",
    ]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run `train.py`; bytes and seconds of each stage, and of the whole."""
    command = [sys.executable, __file__, "--run", *overrides(args, folder)]
    cache = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}  # no baseline of an earlier run
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=cache) as process:
        stages: list[dict[str, Any]] = []
        watching = Thread(target=watch, args=(process.pid, stages))
        watching.start()
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(MARK):
                name = line.removeprefix(MARK).strip()
                if stages and stages[-1]["stage"] == name:  # it followed, and now begins
                    continue
                stages.append({"stage": name, "peak": 0, "s": 0.0})
                print(STAGES[name], file=sys.stderr, flush=True)
        watching.join()
    if process.returncode:
        sys.exit("error: train.py did not finish, see the message above")
    record = read(folder / "run" / FILE)
    dense = record.stored.dense_bytes
    return {
        "model": args.model,
        "recipe": args.recipe,
        "pairs": args.pairs,
        "dense_bytes": dense,
        "artifact_bytes": record.stored.artifact_bytes,
        "limit_bytes": dense + int(ALLOWED),
        "peak_bytes": record.peak_memory_bytes,
        "seconds": record.timings["total_s"],
        "stages": stages,
    }


def watch(pid: int, stages: list[dict[str, Any]]) -> None:
    """Add to the last stage what the process needs, until it ends."""
    last = time.perf_counter()
    while True:
        try:
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):  # it has ended
            return
        if not resident:
            return
        now = time.perf_counter()
        if stages:
            stages[-1]["peak"] = max(stages[-1]["peak"], resident)
            stages[-1]["s"] += now - last
        last = now
        time.sleep(0.005)


MARK = "benchmark_memory stage "


def run_train(arguments: list[str]) -> None:
    """`mmcompress.run`, saying where each stage begins."""
    mark("libraries")
    from mmcompress.experiment import run

    mark("dense")
    stages = logging.getLogger(STAGE_LOG)
    stages.setLevel(logging.DEBUG)
    stages.addHandler(Marks())
    run(arguments)


class Marks(logging.Handler):
    """Says where each stage of a run begins and where it ends, by what the run logs of it."""

    def emit(self, record: logging.LogRecord) -> None:
        name, what = record.args
        mark(name if what == BEGINS else FOLLOWING[name])


def mark(stage: str) -> None:
    print(f"{MARK}{stage}", flush=True)


def to_markdown(result: dict[str, Any]) -> str:
    """One table."""
    lines = ["| stage | seconds | peak memory (GB) |", "|---|---:|---:|"]
    for stage in result["stages"]:
        name, seconds, peak = STAGES[stage["stage"]], stage["s"], stage["peak"] / 1e9
        lines.append(f"| {name} | {seconds:.1f} | {peak:.2f} |")
    peak, limit, dense = (result[f"{name}_bytes"] / 1e9 for name in ("peak", "limit", "dense"))
    lines.append(f"| the whole, from `run.json` | {result['seconds']:.1f} | {peak:.2f} |")
    lines += [
        "",
        f"{result['model']}, {result['recipe']}: dense file {dense:.2f} GB; limit, 1 GB more: "
        f"{limit:.2f} GB; peak {peak:.2f} GB: "
        f"{'kept' if peak < limit else 'NOT KEPT'}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
