"""Hold every recipe against every family of models, and write down what comes out.

    python scripts/make_families.py --out docs/results

writes `families.md` to the folder: a table of recipes by families, the sentence with which a recipe
refuses a model, and what of each model may be compressed. It ends with an error where a promise is
broken; the page says where.
"""

import argparse
import itertools
import logging
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import version
from pathlib import Path

import torch
from rich import get_console
from rich.progress import track

from mmcompress.system.files import write_atomically
from mmcompress.testing.contract import RECIPES, SMALL
from mmcompress.testing.holding import card, hold
from mmcompress.testing.page import document
from mmcompress.testing.zoo.families import FAMILIES

LIBRARIES = ("torch", "open_clip_torch", "timm", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for families.md")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--processes", type=int, default=2, help="models at a time")
    args = parser.parse_args()
    families, recipes = zip(*itertools.product(args.families, args.recipes), strict=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, context, initializer=quieten) as pool:
        bar = track(
            pool.map(hold, recipes, families),
            description="hold",
            total=len(recipes),
            disable=not get_console().is_terminal,
        )
        cells = list(bar)
        cards = dict(zip(args.families, pool.map(card, args.families), strict=True))
    page = document(
        cells,
        cards,
        recipes=args.recipes,
        settings={name: given for name, given in SMALL.items() if name in args.recipes},
        versions={name: version(name) for name in LIBRARIES},
        command="python scripts/make_families.py --out docs/results",
    )
    args.out.mkdir(parents=True, exist_ok=True)
    write_atomically(args.out / "families.md", lambda file: file.write(page.encode()))
    broken = [f"{c.recipe} on {c.family}: {c.reason}" for c in cells if c.outcome == "broken"]
    if broken:
        sys.exit("error: " + "\n".join(broken))


def quieten() -> None:
    """One thread, and no word of what a model's sizes do not fit: a process of many."""
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    main()
