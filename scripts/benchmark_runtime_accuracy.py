"""What the packaged model scores in every runtime, compressed by a recipe of each kind.

    python scripts/benchmark_runtime_accuracy.py --out docs/results [--work FOLDER]

Ends with an error where a runtime scores farther from the artifact's dense decode than its bar: 0.1
points, and 0.5 where inputs are rounded.
"""

from mmcompress.benchmarks.runtime_accuracy import main

if __name__ == "__main__":
    main()
