"""Speed and memory of packed artifacts of full size on a CUDA card, against the dense model there.

    python scripts/benchmark_gpu.py --out docs/results [--only ROW …] [--eager]

`pytest -m gpu` checks that what is measured is also right.
"""

from mmcompress.benchmarks.packed import main

if __name__ == "__main__":
    main(device="cuda", name="gpu")
