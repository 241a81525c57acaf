"""How fast open_clip's ViT-B-32, compressed, is stored and read again, on this machine.

    python scripts/benchmark_storing.py --out docs/results

The weights are random, which cost the same time as trained ones. MB are those of dense float32.
"""

import argparse
import sys
from pathlib import Path

from mmcompress.benchmarks.storing import RECIPES, measure, to_markdown
from mmcompress.config.errors import in_one_sentence
from mmcompress.records.environment import hardware, versions
from mmcompress.system.devices import gpu_name
from mmcompress.system.files import write_atomically, write_json


@in_one_sentence
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="folder for storing.md and storing.json")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="of conf/compression/")
    args = parser.parse_args()
    results = {recipe: measure(recipe) for recipe in args.recipes}
    table = to_markdown(results)
    print(table, end="")
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        about = {"hardware": hardware(gpu_name()), "versions": versions(), "command": sys.argv}
        write_json(args.out / "storing.json", {"recipes": results} | about)
        write_atomically(args.out / "storing.md", lambda file: file.write(table.encode()))


if __name__ == "__main__":
    main()
