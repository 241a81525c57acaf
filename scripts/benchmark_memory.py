"""How much memory it takes to compress a large model, on this machine.

    python scripts/benchmark_memory.py --out docs/results

open_clip's ViT-L-14 with random weights, which cost the same as trained ones, is written to a
safetensors file; then `compression=int8 trainer=post_training` runs on it, in a process of its own,
from reading the file to scoring what was stored. Its proportional set size (`Pss` of
`/proc/PID/smaps_rollup`, which counts a page once even if two maps show it) is read all the while.
What the libraries alone take is subtracted. The peak of all stages except scoring must stay below
`ALLOWED` times the dense float32 file; scoring is kept short, by retrieval of a few pairs and
latency one at a time. The pairs are OpenMoji's, as files in a table.
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
from mmcompress.records.read import read
from mmcompress.records.schema import FILE
from mmcompress.session import BEGINS, STAGE_LOG
from mmcompress.system.devices import gpu_name
from mmcompress.system.files import write_atomically, write_json

ALLOWED = 1.5
"""Peak above the libraries / bytes of the dense file, scoring apart."""

INTERVAL = 0.1
"""Seconds between two looks at the process: each walks through all its pages."""

STAGES = {
    "libraries": "libraries",
    "dense": "model, pairs",
    "score_dense_s": "score the dense model",
    "calibrate_s": "calibrate, edit",
    "fit_s": "fit (no step)",
    "save_s": "bake, encode, store, check",
    "load": "load to score",
    "evaluate_s": "score, latency",
    "report_s": "report",
}
"""What goes on in the stages that a run announces, and between them."""

SCORING = ("score_dense_s", "load", "evaluate_s", "report_s")
"""Stages that the bar does not look at."""

FOLLOWING = {
    "score_dense_s": "calibrate_s",
    "calibrate_s": "fit_s",
    "fit_s": "save_s",
    "save_s": "load",
    "evaluate_s": "report_s",
    "report_s": "report_s",
}
"""The part that begins where one ends; of the report, what is left to do."""


@in_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for memory.md and memory.json")
    parser.add_argument("--model", default="ViT-L-14", help="of open_clip.list_models()")
    parser.add_argument("--recipe", default="int8", help="of conf/compression/")
    parser.add_argument("--pairs", type=int, default=4, help="of each split")
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
        "~evaluation.evaluators.zeroshot",
        "evaluation.latency.batch_sizes=[1]",
        "logger=none",
        f"run_dir={folder / 'run'}",
    ]


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Bytes and seconds of each stage of a run."""
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
        sys.exit("error: the run did not finish, see the message above")
    record = read(folder / "run" / FILE)
    libraries = stages[0]["peak"]
    return {
        "model": args.model,
        "recipe": args.recipe,
        "pairs": args.pairs,
        "dense_bytes": record.stored.dense_bytes,
        "artifact_bytes": record.stored.artifact_bytes,
        "libraries_bytes": libraries,
        "limit_ratio": ALLOWED,
        "stages": [stage | {"peak": stage["peak"] - libraries} for stage in stages[1:]],
    }


def watch(pid: int, stages: list[dict[str, Any]]) -> None:
    """Add to the last stage what the process needs, until it ends."""
    last = time.perf_counter()
    while (needed := proportional_set_size(pid)) is not None:
        now = time.perf_counter()
        if stages:
            stages[-1]["peak"] = max(stages[-1]["peak"], needed)
            stages[-1]["s"] += now - last
        last = now
        time.sleep(INTERVAL)


def proportional_set_size(pid: int) -> int | None:
    """Bytes of a process, pages that several maps show counted once; None once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")]
    return found[0] if found else None


MARK = "benchmark_memory stage "


def run_train(arguments: list[str]) -> None:
    """`mmcompress.run`, saying where each stage begins."""
    import transformers  # noqa: F401  all that a run imports is there before it is weighed

    from mmcompress.experiment import run

    mark("libraries")
    time.sleep(3 * INTERVAL)
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
    """One table, and whether the bar holds."""
    dense = result["dense_bytes"]
    lines = ["| stage | seconds | peak (GB) | peak / dense file |", "|---|---:|---:|---:|"]
    for stage in result["stages"]:
        name, peak = STAGES[stage["stage"]], stage["peak"]
        lines.append(f"| {name} | {stage['s']:.1f} | {peak / 1e9:.2f} | {peak / dense:.2f} |")
    peak = max(s["peak"] for s in result["stages"] if s["stage"] not in SCORING)
    kept = peak <= result["limit_ratio"] * dense
    lines += [
        "",
        f"{result['model']}, {result['recipe']}, above {result['libraries_bytes'] / 1e9:.2f} GB of "
        f"libraries. Dense file {dense / 1e9:.2f} GB; peak, scoring apart, {peak / 1e9:.2f} GB, "
        f"which is {peak / dense:.2f} times the file: the limit of {result['limit_ratio']} times "
        f"is {'kept' if kept else 'NOT KEPT'}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
