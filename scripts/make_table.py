"""Make the table of recipes and its picture from run records.

    python scripts/make_table.py runs/ --out docs

prints the Markdown table and writes `results.md` and `accuracy_vs_size.png` to the folder.
"""

import argparse
import logging
import sys
from pathlib import Path

from mmcompress.report.plot import accuracy_vs_size
from mmcompress.report.record import finished, read_records
from mmcompress.report.table import results_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder below which the run.json files lie")
    parser.add_argument("--out", type=Path, help="folder for results.md and the picture")
    parser.add_argument("--metric", help="what the picture shows; mean recall by default")
    args = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    try:
        records = finished(read_records(args.runs))
        table = results_table(records)
        print(table, end="")
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            (args.out / "results.md").write_text(table, encoding="utf-8")
            accuracy_vs_size(records, args.out / "accuracy_vs_size.png", metric=args.metric)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
