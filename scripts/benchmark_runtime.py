"""Speed and memory of artifacts of full size in ONNX Runtime, against its float32.

    python scripts/benchmark_runtime.py --out docs/results [--work FOLDER] [--only ROW …]

open_clip's ViT-B-32 with random weights, image and text tower, batch 1 and 16, two threads. With
`--work` an interrupted benchmark goes on where it stopped.
"""

from mmcompress.benchmarks.runtime import main

if __name__ == "__main__":
    main()
