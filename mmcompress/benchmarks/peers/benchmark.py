"""Other libraries on the packaged model: same data, evaluator and fine-tune, in one run.

Each library compresses the dense model, stores it in the smallest way that it offers itself, and is
scored on what its own loader reads back. Bytes are those of all files it needs but Python code and
tokenizer, as for our artifacts. Where it can train with the compression, it gets the fine-tune of
`experiment=best_28x`: objective, optimizer, batches, augmentation and steps follow that file. Rows
that are finished with the same settings and versions are not repeated.
"""

import argparse
import contextlib
import copy
import hashlib
import importlib.metadata
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from mmcompress.artifact.dense import dense_file_bytes
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.benchmarks.peers.base import Peer
from mmcompress.benchmarks.peers.nncf import NNCF
from mmcompress.benchmarks.peers.quanto import Quanto
from mmcompress.benchmarks.peers.torch_pruning import TorchPruning
from mmcompress.benchmarks.peers.torchao import TorchAO
from mmcompress.benchmarks.peers.towers import Served, Towers
from mmcompress.benchmarks.peers.verdict import (
    points_in,
    points_of,
    results_table,
    verdict_table,
    verdicts,
)
from mmcompress.benchmarks.rows import run_missing
from mmcompress.compression.recipe import Recipe
from mmcompress.config.compose import compose_config
from mmcompress.config.errors import in_one_sentence
from mmcompress.evaluation.baseline import dense_baseline
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.records.environment import git_commit, hardware, versions
from mmcompress.records.record import finished, read_records
from mmcompress.report.summary import Summary, summarize
from mmcompress.report.table import MAIN_METRIC
from mmcompress.system.devices import gpu_name
from mmcompress.system.files import write_atomically, write_json
from mmcompress.training.module import CompressionModule, TrainingData
from mmcompress.training.progress import ProgressBar

PEERS: tuple[Peer, ...] = (
    Quanto(8),
    Quanto(4, hqq=True),
    Quanto(2),
    TorchAO(8),
    TorchAO(4, hqq=True),
    TorchAO(2, group_size=96),
    NNCF(8),
    NNCF(4),
    NNCF(3),
    NNCF(2),
    NNCF(2, group_size=64),
    TorchPruning(1.5),
    TorchPruning(2),
    Quanto(8, trained=True),
    Quanto(4, trained=True),
    Quanto(2, trained=True),
    TorchAO(8, trained=True),
    TorchAO(4, trained=True),
    TorchAO(2, group_size=96, trained=True),
    NNCF(8, trained=True),
    NNCF(4, trained=True),
    TorchPruning(1.5, trained=True),
    TorchPruning(2, trained=True),
)
"""Group sizes and algorithms were chosen on the validation split."""

Job = tuple[Peer, int]
"""A setting and its seed."""

FINE_TUNE = "best_28x"
GRAPH = ".xml"
"""Files that hold no weight."""


@dataclass(frozen=True)
class Bench:
    """What all rows share: the model, its scores, data and evaluators."""

    cfg: DictConfig
    split: str
    dense: HFClip
    metrics: dict[str, float]
    data: Any
    evaluators: dict[str, Any]

    @property
    def fine_tune(self) -> dict[str, Any]:
        """Settings of `train.py` that decide what a fine-tuned row is."""
        keys = ("data", "objective", "optimizer", "trainer", "warmup_ratio")
        plain: Any = OmegaConf.to_container(self.cfg, resolve=True)
        return {key: plain[key] for key in keys}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for peers.json and peers.md")
    parser.add_argument("--ours", type=Path, help="folder with run records of our recipes")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of fine-tuning")
    parser.add_argument("--steps", type=int, help="of fine-tuning, in place of the experiment's")
    parser.add_argument("--only", nargs="+", help="libraries; all by default")
    parser.add_argument("--post-training", action="store_true", help="no fine-tuned rows")
    benchmark(parser.parse_args())


@in_one_sentence
def benchmark(args: argparse.Namespace) -> None:
    """Every row; what is done so far is in the folder after each of them."""
    peers = chosen(args.only, args.post_training)
    check_installed(peers)
    bench = build(args.split, args.steps)
    ours = our_summaries(args.ours, bench) if args.ours else []
    done = read_results(args.out)
    seeds = sorted({*args.seeds, *(row["seed"] for row in done.values())})
    order = [row_key(peer, seed, bench) for peer, seed in jobs_of(PEERS, seeds)]

    def find(job: Job) -> dict[str, Any] | None:
        kept = done.get(row_key(*job, bench), {})
        return kept if kept.get("metrics") else None

    rows = run_missing(
        jobs_of(peers, args.seeds),
        find,
        lambda job: row(*job, bench) | {"key": row_key(*job, bench)},
        title=lambda job: f"{title(job[0])}, seed {job[1]}",
    )
    for _, result in rows:
        done[result["key"]] = result
        results = [done[key] for key in order if key in done]
        if args.out:
            write(args.out, results, ours, bench)
    print(to_markdown(results, ours, bench), end="")


def jobs_of(peers: Sequence[Peer], seeds: Sequence[int]) -> list[Job]:
    """Each setting with each seed, or with one where nothing is trained."""
    return [(peer, seed) for peer in peers for seed in (seeds if peer.trained else [0])]


def chosen(only: Sequence[str] | None, post_training: bool) -> list[Peer]:
    """Rows of the libraries that are named.

    Raises:
        ValueError: no such library.
    """
    libraries = list(dict.fromkeys(peer.library for peer in PEERS))
    unknown = set(only or []) - set(libraries)
    if unknown:
        raise ValueError(f"--only {' '.join(unknown)}: choose from {', '.join(libraries)}")
    return [
        peer
        for peer in PEERS
        if peer.library in (only or libraries) and not (post_training and peer.trained)
    ]


def check_installed(peers: Sequence[Peer]) -> None:
    """Refuse to start without the libraries.

    Raises:
        ModuleNotFoundError: names what is missing and how to install it.
    """
    missing = [name for name, version in peer_versions(peers).items() if version is None]
    if missing:
        raise ModuleNotFoundError(
            f'{", ".join(missing)} missing: pip install "mmcompress[peers,demo]", or choose '
            "other libraries with --only"
        )


def peer_versions(peers: Sequence[Peer]) -> dict[str, str | None]:
    """Distribution → its version, None when it is not installed."""
    found: dict[str, str | None] = {}
    for package in dict.fromkeys(package for peer in peers for package in peer.packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def build(split: str, steps: int | None) -> Bench:
    """The model of `train.py`, its data, and the dense scores."""
    cfg = configuration(0, steps)
    dense, data = instantiate(cfg.backbone), instantiate(cfg.data)
    data.attach(dense)
    evaluators = instantiate(cfg.evaluation.evaluators)
    metrics = dense_baseline(dense, data, evaluators, split)
    return Bench(cfg, split, dense, metrics, data, evaluators)


def configuration(seed: int, steps: int | None) -> DictConfig:
    """The configuration of `train.py` whose fine-tune the peers get."""
    overrides = [f"experiment={FINE_TUNE}", f"seed={seed}"]
    overrides += [f"trainer.max_steps={steps}"] if steps is not None else []
    return compose_config(*overrides)


def title(peer: Peer) -> str:
    """One line that names a row."""
    return f"{peer.library} {peer.name}{', fine-tuned' if peer.trained else ''}"


def row_key(peer: Peer, seed: int, bench: Bench) -> str:
    """Equal for rows that must have the same result."""
    settings = {name: value for name, value in vars(peer).items() if not name.startswith("_")}
    shared = [bench.split, bench.metrics, bench.fine_tune if peer.trained else None]
    libraries = peer_versions([peer]) | {n: versions()[n] for n in ("torch", "transformers")}
    content = json.dumps([peer.library, settings, seed, shared, libraries], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def row(peer: Peer, seed: int, bench: Bench) -> dict[str, Any]:
    """One result; of a library that fails, its reason."""
    start = time.perf_counter()
    named = {"peer": peer.library, "name": peer.name, "trained": peer.trained, "seed": seed}
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            measured = measure(peer, seed, bench, Path(folder))
    # Whatever a library raises is its result: the table shows it.
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        print(f"  failed: {reason}", file=sys.stderr, flush=True)
        measured = {"bytes": None, "metrics": None, "error": reason}
    return named | measured | {"saved": peer.saved, "seconds": time.perf_counter() - start}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Libraries may warn and print; standard output is for the table alone."""
    with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def measure(peer: Peer, seed: int, bench: Bench, folder: Path) -> dict[str, Any]:
    """Compress, fine-tune where that is asked for, save, load, score."""
    pl.seed_everything(seed, workers=True, verbose=False)
    batches = list(bench.data.calibration_dataloader())
    towers = Towers(bench.dense).eval()
    peer.prepare(towers, batches)
    if peer.trained:
        fine_tune(towers, seed, bench)
    covered = peer.save(towers.eval(), batches, folder)
    served = Served(peer.load(folder, Towers.blank(bench.dense)))
    files = {f.name: f.stat().st_size for f in sorted(folder.iterdir())}
    return {
        "bytes": sum(files.values()),
        "graph_bytes": sum(size for name, size in files.items() if name.endswith(GRAPH)),
        "files": files,
        "coverage": covered / sum(p.numel() for p in bench.dense.parameters()),
        "metrics": evaluate(served, bench.data, bench.evaluators, bench.split),
    }


def fine_tune(towers: Towers, seed: int, bench: Bench) -> None:
    """Train the towers in place as `train.py` trains a backbone."""
    cfg = configuration(seed, bench.cfg.trainer.max_steps)
    data = instantiate(cfg.data)
    data.attach(bench.dense)
    module = CompressionModule(
        Recipe().restore(towers, {}),
        instantiate(cfg.objective),
        optimizer=instantiate(cfg.optimizer),
        warmup_ratio=cfg.warmup_ratio,
        teacher=copy.deepcopy(bench.dense),
    )
    trainer = instantiate(
        cfg.trainer, logger=False, callbacks=[ProgressBar()], enable_checkpointing=False
    )
    trainer.fit(module, TrainingData(data))


def our_summaries(folder: Path, bench: Bench) -> list[Summary]:
    """Our finished runs that scored the same dense model on the same split.

    Raises:
        ValueError: there are none.
    """
    records = [
        record
        for record in finished(read_records(folder))
        if record.config["evaluation"]["split"] == bench.split
        and record.metrics.dense == bench.metrics
    ]
    if not records:
        raise ValueError(
            f"--ours {folder} holds no finished run of this model on split {bench.split}: "
            "run scripts/benchmark_methods.py first"
        )
    return [summary for summary in summarize(records) if summary.records]


def read_results(out: Path | None) -> dict[str, dict[str, Any]]:
    """Rows of an earlier call, by key."""
    if out is None or not (out / "peers.json").is_file():
        return {}
    results = json.loads((out / "peers.json").read_bytes())["results"]
    return {row["key"]: row for row in results}


def write(out: Path, results: list[dict[str, Any]], ours: list[Summary], bench: Bench) -> None:
    """`peers.json` and `peers.md`."""
    out.mkdir(parents=True, exist_ok=True)
    settings = {"experiment": FINE_TUNE, "split": bench.split, "fine_tune": bench.fine_tune}
    ran = {
        "results": results,
        "dense": {"bytes": dense_file_bytes(bench.dense.model), "metrics": bench.metrics},
        "settings": settings | {"command": sys.argv},
        "versions": versions() | peer_versions(PEERS),
        "hardware": hardware(gpu_name()),
        "commit": git_commit(),
    }
    write_json(out / "peers.json", ran)
    text = to_markdown(results, ours, bench).encode()
    write_atomically(out / "peers.md", lambda file: file.write(text))


def to_markdown(results: list[dict[str, Any]], ours: list[Summary], bench: Bench) -> str:
    """Both tables, and what the rows do not say."""
    table = results_table(results, bench.metrics, dense_file_bytes(bench.dense.model))
    lacking = {f"{p.library} {p.name}: {p.reason}." for p in PEERS if p.reason}
    text = "\n".join([table, "Without a fine-tuned row: " + " ".join(sorted(lacking)), ""])
    if not ours:
        return text
    found = verdicts(points_in(results), points_of(ours), bench.metrics[MAIN_METRIC])
    held = sum(verdict.holds for verdict in found)
    head = f"Within 2 points of dense, ours is at most half the bytes {held} of {len(found)} times:"
    return "\n".join([text, head, "", verdict_table(found)])
