"""What artifacts of a model of full size gain in ONNX Runtime, against its float32 and its own
quantizers.

The model is open_clip's with random weights, which run as fast as trained ones. Each artifact is
stored, loaded and written as graphs; a graph, the dense one and ONNX Runtime's own then take turns
in one process, and their medians are compared: milliseconds do not travel to another processor,
ratios nearly do. Resident bytes are those of a fresh process after one run, minus what it had
before it opened the graph.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra.utils import instantiate
from torch import Tensor

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.capabilities import Encoder
from mmcompress.backbones.open_clip.backbone import OpenClip
from mmcompress.benchmarks.graphs import file_bytes, graph_memory, time_graphs
from mmcompress.benchmarks.rows import run_missing
from mmcompress.benchmarks.runtime_peers import (
    DYNAMIC,
    FOUR_BITS,
    FOUR_BITS_INPUTS,
    NNCF,
    PEERS,
)
from mmcompress.benchmarks.sessions import XML
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.steps import Step
from mmcompress.config.compose import compose_config
from mmcompress.config.errors import in_one_sentence
from mmcompress.exports.onnx import write_dense_towers, write_towers
from mmcompress.exports.openvino import convert
from mmcompress.exports.rounding import input_ranges
from mmcompress.records.environment import git_commit, hardware, versions
from mmcompress.report.table import MEGABYTE
from mmcompress.system.devices import gpu_name
from mmcompress.system.extras import require_package
from mmcompress.system.files import write_atomically, write_json

BATCHES = (1, 16)
PAIRS = 16
"""That calibration sees: they need not be many, for weights are random."""


@dataclass(frozen=True)
class Row:
    """One artifact, and how it runs.

    Attributes:
        name: what the table calls it.
        steps: files of `conf/compression/` that hold one step each, and what they set.
        activations: of `write_towers`.
        peer: of `PEERS`, what others make of the dense graph that is like it.
        openvino: whether OpenVINO runs it, and not ONNX Runtime.
    """

    name: str
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    activations: str | None = None
    peer: str = ""
    openvino: bool = False


Steps = dict[str, dict[str, Any]]
INT8: Steps = {"int8": {}}
INT4: Steps = {"int4": {"group_size": 32}}
LOWRANK: Steps = {"lowrank": {"rank_ratio": 0.25, "weighting": "none"}}
CUT: Steps = {"neurons": {"pruning_ratio": 0.5}, "heads": {"pruning_ratio": 0.5}}
ROWS = (
    Row("int8", INT8, "int8", DYNAMIC),
    Row("lowrank 0.25 + int8", LOWRANK | INT8, "int8", DYNAMIC),
    Row("neurons + heads 0.5 + int8", CUT | INT8, "int8", DYNAMIC),
    Row("int8, weights alone", INT8),
    Row("int4, blocks of 32", INT4, "int8", FOUR_BITS_INPUTS),
    Row("int4, blocks of 32, weights alone", INT4, None, FOUR_BITS),
    Row(
        "int2, blocks of 128, zero points",
        {"int2": {"group_size": 128, "symmetric": False, "midrise": False}},
        "int8",
    ),
    Row("int8, OpenVINO", INT8, "static_int8", NNCF, openvino=True),
    Row("int8, OpenVINO, weights alone", INT8, openvino=True),
)


@in_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for runtime.md and runtime.json")
    parser.add_argument("--work", type=Path, help="folder that keeps graphs for another time")
    parser.add_argument("--model", default="ViT-B-32", help="of open_clip.list_models()")
    parser.add_argument("--only", nargs="+", choices=[row.name for row in ROWS], metavar="ROW")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing for each cell")
    args = parser.parse_args()
    require_package("onnxruntime", extra="onnx", asks="this benchmark")
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        rows = [row for row in ROWS if not args.only or row.name in args.only]
        cells = list(measure(rows, args.model, work, threads=args.threads, seconds=args.seconds))
    table = to_markdown(cells, args.model, args.threads)
    print(table, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        record = {
            "model": args.model,
            "threads": args.threads,
            "cells": cells,
            "hardware": hardware(gpu_name()),
            "versions": versions(),
            "commit": git_commit(),
            "command": sys.argv,
        }
        write_json(args.out / "runtime.json", record)
        write_atomically(args.out / "runtime.md", lambda file: file.write(table.encode()))


def measure(
    rows: Sequence[Row], model: str, work: Path, *, threads: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """One cell for each row, tower and batch.

    Args:
        rows: of the table.
        model: of `open_clip.list_models()`.
        work: folder for graphs; those that it holds are not made again.
        threads: of a session.
        seconds: of timing for each cell.
    """
    dense = work / "dense"
    samples = _write_dense(model, dense)
    for row, folder in run_missing(
        rows, partial(_written, work), partial(_write_row, model, work), title=lambda row: row.name
    ):
        for modality, inputs in samples.items():
            example = inputs[:1]
            ours = folder / f"{modality}{XML if row.openvino else '.onnx'}"
            graphs = {"dense": dense / f"{modality}.onnx", "ours": ours}
            if row.peer:
                graphs["own"] = _peer(row.peer, modality, dense, inputs, work)
            resident = {
                name: graph_memory(graph, example, threads) for name, graph in graphs.items()
            }
            bytes_ = {name: file_bytes(graph) for name, graph in graphs.items()}
            for batch in BATCHES:
                medians = time_graphs(graphs, example, batch, threads=threads, seconds=seconds)
                yield {
                    "row": row.name,
                    "tower": modality,
                    "batch": batch,
                    "ms": {name: 1e3 * median for name, median in medians.items()},
                    "resident_bytes": resident,
                    "file_bytes": bytes_,
                }


def build_recipe(row: Row) -> Recipe:
    """The recipe of a row: one step of each file that it names."""
    steps: dict[str, Step] = {}
    for name, settings in row.steps.items():
        cfg = compose_config(f"compression={name}").compression
        (step,) = cfg.steps
        steps[step] = instantiate(cfg.steps[step], **settings)
    return Recipe(steps)


def _write_dense(model: str, folder: Path) -> dict[str, np.ndarray]:
    """Graphs of the dense model; gives inputs (`PAIRS`, …) of each tower."""
    backbone = OpenClip.from_pretrained(model)
    if not folder.exists():
        folder.mkdir(parents=True)
        write_dense_towers(backbone, folder)
    return {modality: x.numpy() for modality, x in pairs(backbone, PAIRS).items()}


def pairs(backbone: OpenClip, count: int) -> dict[str, Tensor]:
    """Pictures of noise with captions, as the model reads them."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 256, 256), generator=generator, dtype=torch.uint8)
    texts = [f"a photo of the number {number}" for number in range(count)]
    return {"image": backbone.preprocess(pixels), "text": backbone.tokenize(texts)}


def _folder(work: Path, row: Row) -> Path:
    return work / row.name.replace(",", "").replace(" ", "_")


def _written(work: Path, row: Row) -> Path | None:
    folder = _folder(work, row)
    suffix = XML if row.openvino else ".onnx"
    return folder if (folder / f"text{suffix}").exists() else None


def _write_row(model: str, work: Path, row: Row) -> Path:
    backbone = OpenClip.from_pretrained(model)
    batches = [pairs(backbone, PAIRS)]
    folder = _folder(work, row)
    with tempfile.TemporaryDirectory() as stored:
        saved = build_recipe(row).apply(backbone, batches).save(Path(stored) / "artifact")
        artifact = Artifact.load(saved.folder)
        ranges = None
        if row.activations == "static_int8":
            assert isinstance(artifact.backbone, Encoder)
            ranges = input_ranges(artifact.backbone, batches, centered=row.openvino)
        folder.mkdir(parents=True, exist_ok=True)
        graphs = Path(stored) if row.openvino else folder
        towers = write_towers(
            artifact,
            graphs,
            activations=row.activations,
            ranges=ranges,
            runtime="openvino" if row.openvino else "onnx",
        )
        if row.openvino:
            for tower in towers:
                convert(graphs / tower.file, folder / f"{tower.modality}{XML}", tower.modality)
    return folder


def _peer(name: str, modality: str, dense: Path, samples: np.ndarray, work: Path) -> Path:
    folder = work / f"own_{name.replace(',', '').replace(' ', '_')}"
    folder.mkdir(exist_ok=True)
    graph = folder / f"{modality}{PEERS[name].suffix}"
    if not graph.exists():
        PEERS[name].make(dense / f"{modality}.onnx", graph, samples)
    return graph


def to_markdown(cells: Sequence[Mapping[str, Any]], model: str, threads: int) -> str:
    """The table: how often faster than ONNX Runtime's float32, and how much smaller."""
    lines = [
        f"open_clip {model}, {threads} threads; × is against ONNX Runtime's float32, and in "
        "brackets what the quantizer of ONNX Runtime, or NNCF for OpenVINO, reaches.",
        "",
        "| artifact | tower | batch 1 | batch 16 | resident / dense | file (MB) |",
        "|---|---|---:|---:|---:|---:|",
    ]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        groups.setdefault((cell["row"], cell["tower"]), []).append(cell)
    for (row, tower), found in groups.items():
        speeds = [_speeds(cell["ms"]) for cell in found]
        resident = found[0]["resident_bytes"]
        share = "–" if resident["ours"] is None else f"{resident['ours'] / resident['dense']:.2f}"
        size = found[0]["file_bytes"]["ours"] / MEGABYTE
        lines.append(f"| {row} | {tower} | {' | '.join(speeds)} | {share} | {size:.1f} |")
    return "\n".join(lines) + "\n"


def _speeds(ms: Mapping[str, float]) -> str:
    own = f" ({ms['dense'] / ms['own']:.2f}×)" if "own" in ms else ""
    return f"{ms['dense'] / ms['ours']:.2f}×{own}"
