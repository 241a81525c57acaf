"""Export every recipe and every family to every runtime and library, and write down what comes out.

    python scripts/make_exports.py --out docs/results [--work FOLDER]

writes `exports.md` and `exports.json` to the folder: every recipe on two models, and a recipe of
each kind on every family. With `--work` an interrupted page goes on where it stopped. It ends with
an error where an export is broken; the page says where.
"""

from mmcompress.testing.exports_page import main

if __name__ == "__main__":
    main()
