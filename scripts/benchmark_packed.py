"""Speed and memory of packed artifacts of full size in PyTorch on the CPU, against the dense model.

    python scripts/benchmark_packed.py --out docs/results [--only ROW …] [--eager]

open_clip's ViT-B-32 with random weights, image and text tower, batch 1 and 16, two threads, eager
and compiled.
"""

from mmcompress.benchmarks.packed import main

if __name__ == "__main__":
    main()
