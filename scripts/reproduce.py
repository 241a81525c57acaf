"""Make a paper's table: run the rows that are missing, print ours beside the published.

    python scripts/reproduce.py table=qwt
    python scripts/reproduce.py table=all out=docs/results
    python scripts/reproduce.py table=qwt scale=full paths.imagenet1k=PATH

conf/reproduce.yaml holds the settings, conf/table the tables. A row is one run of train.py; one
whose exact configuration has finished is not repeated, so a second call runs nothing, and rows that
several tables have in common run once. At scale=full what is missing is said before anything runs.
"""

from mmcompress.benchmarks.reproduce import main

if __name__ == "__main__":
    main()
