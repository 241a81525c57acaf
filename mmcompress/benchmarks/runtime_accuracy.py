"""What the packaged model scores in every runtime, compressed by a recipe of each kind.

Every runtime runs what is deployed: an artifact's export, or its packed modules. They are held
against the dense decode of the same artifact.
"""

import argparse
import json
import logging
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mmcompress.api import backbone, compress, evaluate, export
from mmcompress.artifact.folder import Artifact
from mmcompress.benchmarks.rows import run_missing
from mmcompress.config.errors import in_one_sentence
from mmcompress.records.environment import git_commit, versions
from mmcompress.report.formats import ABSENT, markdown_lines
from mmcompress.runtime.exported import open_export
from mmcompress.system.files import write_atomically, write_json

log = logging.getLogger(__name__)

METRIC = "retrieval/mean_r@1"
MODEL, DATA = "mini", "openmoji"

RECIPES = ("int8", "int4", "lowrank_int8", "magnitude_int4", "vq", "w8a8")

ROUND_INPUTS = ("w8a8",)
"""Recipes that round what layers read."""

DECODED = "dense decode"

Scores = Mapping[str, float | None]
"""By heading of `COLUMNS`; None where the artifact cannot be run so."""


@dataclass(frozen=True)
class Column:
    """One way to run an artifact.

    Attributes:
        runtime: of `mmcompress.load`.
        activations: of `mmcompress export`; None for what the artifact says.
    """

    runtime: str
    activations: str | None = None


COLUMNS = {
    DECODED: Column("dense"),
    "packed": Column("packed"),
    "onnx": Column("onnx"),
    "openvino": Column("openvino"),
    "onnx, inputs int8": Column("onnx", "int8"),
    "onnx, inputs static int8": Column("onnx", "static_int8"),
    "openvino, inputs static int8": Column("openvino", "static_int8"),
}

WEIGHTS, INPUTS = 0.001, 0.005
"""Bars: 0.1 points where nothing more is rounded, 0.5 where inputs are."""


@in_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for runtime_accuracy.md and .json")
    parser.add_argument("--work", type=Path, help="folder that keeps rows for another time")
    parser.add_argument("--only", nargs="+", choices=RECIPES, help="recipes; all by default")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        rows = dict(measure(args.only or RECIPES, work))
        dense = _dense_score(work)
    page = to_markdown(dense, rows)
    print(page, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        record = {
            "dense": dense,
            "rows": rows,
            "versions": versions(),
            "commit": git_commit(),
            "command": sys.argv,
        }
        write_json(args.out / "runtime_accuracy.json", record)
        write_atomically(args.out / "runtime_accuracy.md", lambda file: file.write(page.encode()))
    failed = misses(dense, rows)
    if failed:
        sys.exit("error: " + "\n".join(failed))


def measure(recipes: Sequence[str], work: Path) -> Iterable[tuple[str, Scores]]:
    """Recipe and its scores by heading of `COLUMNS`.

    Args:
        recipes: files of `conf/compression/`.
        work: folder for scores; those that it holds are not measured again.
    """

    def find(recipe: str) -> Scores | None:
        file = work / f"{recipe}.json"
        return json.loads(file.read_bytes()) if file.exists() else None

    def run(recipe: str) -> Scores:
        scores = score_recipe(recipe)
        write_json(work / f"{recipe}.json", scores)
        return scores

    return run_missing(recipes, find, run, title=str)


def score_recipe(recipe: str) -> Scores:
    """`METRIC` of the packaged model under a recipe, by heading of `COLUMNS`."""
    with tempfile.TemporaryDirectory() as place:
        artifact = compress(backbone(MODEL), recipe, data=DATA).save(Path(place) / "artifact")
        return {
            name: _score(artifact, column, Path(place) / name) for name, column in COLUMNS.items()
        }


def _score(artifact: Artifact, column: Column, out: Path) -> float | None:
    if column.runtime in ("dense", "packed"):
        return evaluate(artifact.folder, data=DATA, runtime=column.runtime)[METRIC]
    data = DATA if column.activations == "static_int8" else None
    try:
        export(artifact, to=column.runtime, out=out, activations=column.activations, data=data)
    except ValueError as error:
        log.warning("left out: %s", error)
        return None
    return evaluate(open_export(out), data=DATA)[METRIC]


def _dense_score(work: Path) -> float:
    file = work / "dense_model.json"
    if not file.exists():
        write_json(file, evaluate(backbone(MODEL), data=DATA)[METRIC])
    return json.loads(file.read_bytes())


def misses(dense: float, rows: Mapping[str, Scores]) -> list[str]:
    """Scores that miss their bar, in words.

    Where nothing more is rounded than the artifact says, a score is as far as `WEIGHTS` from the
    dense decode's, or as `INPUTS` where the recipe itself rounds inputs, which may fall either way.
    Where inputs are rounded on request, it is no more than `INPUTS` below the dense model's, or
    below that of a dense decode that scores less.
    """
    found = []
    for recipe, scores in rows.items():
        decoded = scores[DECODED]
        assert decoded is not None
        for name, column in COLUMNS.items():
            score = scores[name]
            if score is None:
                continue
            if column.activations is None:
                bar = INPUTS if recipe in ROUND_INPUTS else WEIGHTS
                missed = round(abs(score - decoded), 6) > bar
            else:
                missed = round(min(dense, decoded) - score, 6) > INPUTS
            if missed:
                found.append(
                    f"{recipe}: {name} scores {100 * score:.2f}, its dense decode "
                    f"{100 * decoded:.2f} and the dense model {100 * dense:.2f}"
                )
    return found


def to_markdown(dense: float, rows: Mapping[str, Scores]) -> str:
    """The table, scores in percent."""
    lines = [
        f"mean R@1 (%) on the test split of `data={DATA}`, `backbone={MODEL}`, without "
        f"fine-tuning; the dense model scores {100 * dense:.2f}. In brackets: points from the "
        "dense decode of the same artifact.",
        "",
    ]
    table = [["recipe", *COLUMNS], ["---", *["---:"] * len(COLUMNS)]]
    for recipe, scores in rows.items():
        cells = [_cell(scores.get(name), scores[DECODED], name) for name in COLUMNS]
        table.append([f"`{recipe}`", *cells])
    return "\n".join(lines) + "\n" + markdown_lines(table)


def _cell(score: float | None, decoded: float | None, name: str) -> str:
    if score is None or decoded is None:
        return ABSENT
    points = "" if name == DECODED else f" ({100 * (score - decoded):+.2f})"
    return f"{100 * score:.2f}{points}"
