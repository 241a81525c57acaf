"""Every family at several strengths on the embedded benchmark: the README's tables and picture.

    python scripts/benchmark_methods.py --out docs/results [--peers docs/results/peers.json]

Three tables: all families (`methods`), a byte budget against one strength for all (`budget`), and
which tower should pay for one total (`towers`). Each row is one command `python train.py …`, with
three seeds where training is involved. A run whose exact configuration has finished is not
repeated, so an interrupted benchmark goes on where it stopped.
"""

from mmcompress.benchmarks.methods import main

if __name__ == "__main__":
    main()
