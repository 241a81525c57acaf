"""Data-aware methods against their data-free twins on real pretrained weights, no fine-tuning.

    python scripts/benchmark_minilm.py --out docs/results

The model is all-MiniLM-L6-v2 (extra `minilm`). Each method compresses all layers inside the blocks;
the token embedding has 8 bits in every row, so that it decides nothing. Calibration sees captions
of the training split. Scored is the artifact, reloaded: how close its embeddings of the test
captions are to the dense model's, and how often the nearest caption is still the same.
"""

from mmcompress.benchmarks.minilm import main

if __name__ == "__main__":
    main()
