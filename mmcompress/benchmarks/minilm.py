"""Data-aware methods against their data-free twins on real pretrained weights, no fine-tuning.

The model is all-MiniLM-L6-v2 (extra `minilm`). Each method compresses all layers inside the blocks;
the token embedding has 8 bits in every row, so that it decides nothing. Calibration sees captions
of the training split. Scored is the artifact, reloaded: how close its embeddings of the test
captions are to the dense model's, and how often the nearest caption is still the same.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from torch import Tensor

from mmcompress.artifact.dense import dense_file_bytes
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.steps import Step
from mmcompress.config.compose import compose_config
from mmcompress.config.errors import in_one_sentence
from mmcompress.evaluation.evaluate import evaluate
from mmcompress.records.environment import git_commit, versions
from mmcompress.report.table import MEGABYTE
from mmcompress.system.files import write_atomically, write_json

COSINE, NEIGHBOR = "agreement/text_cosine", "agreement/text_neighbour_r@1"
BLOCKS = "[attn.*,mlp.*]"
CALIBRATION = 2048
"""Training captions, of which most have fewer than ten tokens."""


@dataclass(frozen=True)
class Method:
    """One file of conf/compression that holds one step of its own name.

    Attributes:
        name: what the table calls it.
        config: the file's stem.
        settings: of the step.
    """

    name: str
    config: str
    settings: Mapping[str, Any]


EMBEDDING = Method("int8", "int8", {"role": "embed"})


@dataclass(frozen=True)
class Twins:
    """Methods of one strength, the same bytes but for rounding.

    Attributes:
        strength: what they have in common.
        free: sees no data.
        aware: see calibration data.
    """

    strength: str
    free: Method
    aware: tuple[Method, ...]


def svd(rank_ratio: float) -> Twins:
    """Plain against whitened."""
    plain, whitened = (
        Method(name, "lowrank", {"rank_ratio": rank_ratio, "weighting": weighting})
        for name, weighting in [("SVD", "none"), ("whitened SVD", "whiten")]
    )
    return Twins(f"rank ratio {rank_ratio}", plain, (whitened,))


def rounding(bits: int) -> Twins:
    """RTN against GPTQ and AWQ."""
    settings = {"bits": bits, "group_size": 64}
    gptq, awq = Method("GPTQ", "gptq", settings), Method("AWQ", "awq", settings)
    return Twins(f"{bits} bits", Method("RTN", "int4", settings), (gptq, awq))


def pruning(sparsity: float) -> Twins:
    """Magnitude against Wanda and SparseGPT."""
    settings = {"sparsity": sparsity}
    wanda = Method("Wanda", "wanda", settings)
    sparsegpt = Method("SparseGPT", "sparsegpt", settings)
    return Twins(
        f"{sparsity:.0%} zeros", Method("magnitude", "magnitude", settings), (wanda, sparsegpt)
    )


TABLE = (svd(0.25), svd(0.375), rounding(4), rounding(3), pruning(0.5))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for minilm.md and minilm.json")
    parser.add_argument("--model", nargs="+", default=["backbone=minilm"], help="overrides")
    parser.add_argument("--split", default="test", choices=("val", "test"))
    parser.add_argument("--seed", type=int, default=0, help="of the calibration captions")
    parser.add_argument("--only", nargs="+", help="files of conf/compression; all by default")
    benchmark(parser.parse_args())


@in_one_sentence
def benchmark(args: argparse.Namespace) -> None:
    """Every row of the table; what is done so far is in the folder after each of them."""
    settings = [f"data.calibration_size={CALIBRATION}", f"seed={args.seed}"]
    cfg = compose_config(*args.model, "evaluation=agreement", *settings)
    dense, data = instantiate(cfg.backbone), instantiate(cfg.data)
    data.attach(dense)
    batches = list(data.calibration_dataloader())
    evaluators = instantiate(cfg.evaluation.evaluators)
    rows: list[dict[str, Any]] = []
    for strength, method, aware in methods():
        if args.only and method.config not in args.only:
            continue
        print(f"{strength}: {method.name}", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory() as folder:
            artifact = compress(dense, method, batches, Path(folder) / "artifact")
            stored = artifact.bytes
        metrics = evaluate(artifact.backbone, data, evaluators, args.split, dense=dense)
        row = {"strength": strength, "data_aware": aware, "bytes": stored, "metrics": metrics}
        rows.append(asdict(method) | row)
        if args.out:
            write(args, rows, dense_file_bytes(dense.model))
    print(to_markdown(rows), end="")


def methods() -> Iterator[tuple[str, Method, bool]]:
    """Strength, method, whether it sees data."""
    for twins in TABLE:
        yield twins.strength, twins.free, False
        for method in twins.aware:
            yield twins.strength, method, True


def write(args: argparse.Namespace, rows: list[dict[str, Any]], dense_bytes: int) -> None:
    """`minilm.json` and `minilm.md`."""
    args.out.mkdir(parents=True, exist_ok=True)
    ran = {"model": args.model, "split": args.split, "seed": args.seed, "command": sys.argv}
    ran |= {"calibration_size": CALIBRATION, "versions": versions(), "commit": git_commit()}
    write_json(args.out / "minilm.json", ran | {"dense_bytes": dense_bytes, "results": rows})
    table = to_markdown(rows).encode()
    write_atomically(args.out / "minilm.md", lambda file: file.write(table))


def build_recipe(method: Method) -> Recipe:
    """The method in the blocks, 8 bits in the embedding."""
    steps: dict[str, Step | None] = {}
    for step in (replace(method, settings={"role": BLOCKS, **method.settings}), EMBEDDING):
        keys = [f"compression.steps.{step.config}.{k}={v}" for k, v in step.settings.items()]
        cfg = compose_config(f"compression={step.config}", *keys)
        steps |= instantiate(cfg.compression).steps
    return Recipe(steps)


def compress(
    dense: Backbone, method: Method, batches: list[dict[str, Tensor]], folder: Path
) -> Artifact:
    """The artifact of one method, read back from `folder`."""
    backbone, recipe = copy.deepcopy(dense), build_recipe(method)
    compressed = recipe.apply(backbone, batches)
    compressed.save(folder, run={"config_hash": "", "recipe": method.name})
    return Artifact.load(folder)


def to_markdown(rows: list[dict[str, Any]]) -> str:
    """One line per method, its twin above it."""
    header = ("strength", "method", "stored (MB)", "cosine", "same nearest caption (%)")
    lines = [header, ("---", "---", "---:", "---:", "---:")]
    for row in rows:
        cosine, neighbor = row["metrics"][COSINE], row["metrics"][NEIGHBOR]
        cells = (f"{row['bytes'] / MEGABYTE:.2f}", f"{cosine:.4f}", f"{100 * neighbor:.1f}")
        lines.append((row["strength"], row["name"], *cells))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
