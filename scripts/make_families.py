"""Hold every recipe against every family of models, and write down what comes out.

    python scripts/make_families.py --out docs/results

writes `families.md` to the folder: a table of recipes by families, the sentence with which a recipe
refuses a model, and what of each model may be compressed. It ends with an error where a promise is
broken; the page says where.
"""

import argparse
import logging
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch
from document_families import Cell, document
from rich import get_console
from rich.progress import track

from mmcompress.backbones.card import Card, card_of
from mmcompress.system.files import write_atomically
from mmcompress.testing.contract import RECIPES, SMALL, Contract, Refused
from mmcompress.testing.zoo.families import FAMILIES

LIBRARIES = ("torch", "open_clip_torch", "timm", "transformers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for families.md")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=FAMILIES)
    parser.add_argument("--recipes", nargs="+", default=RECIPES, choices=RECIPES)
    parser.add_argument("--processes", type=int, default=2, help="models at a time")
    args = parser.parse_args()
    tasks = [(recipe, family) for family in args.families for recipe in args.recipes]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.processes, context, initializer=quieten) as pool:
        bar = track(
            pool.map(hold, tasks),
            description="hold",
            total=len(tasks),
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


@cache
def contract(family: str) -> Contract:
    with tempfile.TemporaryDirectory() as folder:
        return Contract(FAMILIES[family].build(Path(folder)))


def hold(task: tuple[str, str]) -> Cell:
    """One recipe on one family."""
    recipe, family = task
    with tempfile.TemporaryDirectory() as folder:
        try:
            spared = contract(family).check(recipe, Path(folder) / "artifact")
        except Refused as refusal:
            return Cell(recipe, family, "refused", str(refusal))
        # Whatever else a library raises is what the page is to show.
        except Exception as error:
            return Cell(recipe, family, "broken", f"{type(error).__name__}: {error}")
    towers = [m for m in contract(family).dense.modalities if m not in spared]
    return Cell(recipe, family, "passed", only=" ".join(towers) if spared else "")


def card(family: str) -> Card:
    return card_of(contract(family).dense)


if __name__ == "__main__":
    main()
