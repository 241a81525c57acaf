"""What a packed artifact of a model of full size gains in PyTorch, against the dense model.

The model is open_clip's with random weights. All of a tower's candidates take turns in one process
and their medians are compared, each eager and compiled. Memory is that of parameters and buffers.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcompress.backbones.capabilities import Encoder, encoder
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.benchmarks.runtime import BATCHES, PAIRS, Row, build_recipe, pairs
from mmcompress.config.errors import in_one_sentence
from mmcompress.records.environment import git_commit, hardware, versions
from mmcompress.report.table import MEGABYTE
from mmcompress.runtime.dense import DenseModel
from mmcompress.runtime.latency import alternate
from mmcompress.runtime.packed.load import PackedModel, load_packed
from mmcompress.system.devices import gpu_name
from mmcompress.system.files import write_atomically, write_json
from mmcompress.system.progress import progress

ROWS = (
    Row("int8, inputs int8", {"activations": {}, "int8": {}}),
    Row("int8, weights alone", {"int8": {}}),
    Row("int4, blocks of 32, weights alone", {"int4": {"group_size": 32}}),
)
DENSE, DENSE_COMPILED, PACKED, PACKED_COMPILED = (
    "dense",
    "dense, compiled",
    "packed",
    "packed, compiled",
)


@in_one_sentence
def main(device: str = "cpu", name: str = "packed") -> None:
    """The command.

    Args:
        device: where all run.
        name: of the files that it writes.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help=f"folder for {name}.md and {name}.json")
    parser.add_argument("--model", default="ViT-B-32", help="of open_clip.list_models()")
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], metavar="ROW")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing for each cell")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    args = parser.parse_args()
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("PyTorch finds no CUDA device here: run this where there is one")
    torch.set_num_threads(args.threads)
    rows = [row for row in ROWS if not args.only or row.name in args.only]
    compiled = not args.eager
    dense = OpenClip.from_pretrained(args.model)
    cells = list(measure(rows, dense, device, seconds=args.seconds, compiled=compiled))
    where = gpu_name() if device == "cuda" else f"CPU, {args.threads} threads"
    table = to_markdown(cells, args.model, str(where))
    print(table, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        record = {
            "model": args.model,
            "device": device,
            "threads": args.threads,
            "cells": cells,
            "hardware": hardware(gpu_name()),
            "versions": versions(),
            "commit": git_commit(),
            "command": sys.argv,
        }
        write_json(args.out / f"{name}.json", record)
        write_atomically(args.out / f"{name}.md", lambda file: file.write(table.encode()))


def measure(
    rows: Sequence[Row], dense: OpenClip, device: str, *, seconds: float, compiled: bool
) -> Iterator[dict[str, Any]]:
    """One cell for each row, tower and batch.

    Args:
        rows: of the table.
        dense: the model, on the CPU.
        device: where all run.
        seconds: of timing for each cell.
        compiled: time both models compiled as well.
    """
    inputs = {name: x[:1].to(device) for name, x in pairs(dense, 1).items()}
    for row in progress(rows, "packed"):
        packed = _packed(row, dense.cpu())
        memory = {"dense": DenseModel(dense).bytes, "packed": packed.bytes}
        small = encoder(packed.backbone, "this needs", "choose a model of open_clip")
        models = {DENSE: dense.eval().to(device), PACKED: small.to(device)}
        for modality, example in inputs.items():
            for batch in BATCHES:
                x = example.expand(batch, *example.shape[1:]).contiguous()
                yield {
                    "row": row.name,
                    "kinds": packed.describe(),
                    "tower": modality,
                    "batch": batch,
                    "ms": _time(models, modality, x, seconds=seconds, compiled=compiled),
                    "bytes": memory,
                }


def _packed(row: Row, dense: OpenClip) -> PackedModel:
    backbone = copy.deepcopy(dense)
    with tempfile.TemporaryDirectory() as folder:
        recipe = build_recipe(row)
        saved = recipe.apply(backbone, [pairs(backbone, PAIRS)]).save(Path(folder) / "artifact")
        return load_packed(saved.folder)


def _time(
    models: Mapping[str, Encoder], modality: str, x: Tensor, *, seconds: float, compiled: bool
) -> dict[str, float]:
    calls: dict[str, Callable[[Tensor], Tensor]] = {
        name: partial(model.encode, modality) for name, model in models.items()
    }
    if compiled:
        for name, to in ((DENSE, DENSE_COMPILED), (PACKED, PACKED_COMPILED)):
            calls[to] = torch.compile(calls[name])

    def to_the_end(call: Callable[[Tensor], Tensor]) -> None:
        call(x)
        if x.is_cuda:
            torch.cuda.synchronize()

    workloads = {name: partial(to_the_end, call) for name, call in calls.items()}
    with torch.inference_mode():
        medians = alternate(workloads, seconds=seconds)
    return {name: 1e3 * median for name, median in medians.items()}


def to_markdown(cells: Sequence[Mapping[str, Any]], model: str, where: str) -> str:
    """The table: how often faster than the dense model, eager, and how much smaller in memory."""
    columns = [name for name in (DENSE_COMPILED, PACKED, PACKED_COMPILED) if name in cells[0]["ms"]]
    heads = " | ".join(columns)
    lines = [
        f"open_clip {model} in PyTorch, {where}; × is against the dense model in float32, eager.",
        "",
        f"| artifact | tower | batch | dense (ms) | {heads} | memory / dense |",
        f"|---|---|---:|---:|{'---:|' * len(columns)}---:|",
    ]
    for cell in cells:
        speeds = " | ".join(f"{cell['ms'][DENSE] / cell['ms'][name]:.2f}×" for name in columns)
        share = cell["bytes"]["packed"] / cell["bytes"]["dense"]
        lines.append(
            f"| {cell['row']} | {cell['tower']} | {cell['batch']} | {cell['ms'][DENSE]:.1f} | "
            f"{speeds} | {share:.2f} |"
        )
    kinds = {cell["row"]: cell["kinds"] for cell in cells}
    megabytes = cells[0]["bytes"]["dense"] / MEGABYTE
    lines += ["", f"The dense model takes {megabytes:.0f} MB."]
    lines += [f"{row}: {kind}." for row, kind in kinds.items()]
    return "\n".join(lines) + "\n"
