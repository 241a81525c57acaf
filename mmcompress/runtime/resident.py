"""A program: how much memory a model takes in ONNX Runtime, in a process that does nothing else.

    python -P resident.py FOLDER INPUTS.npz

Prints the resident bytes after each tower in FOLDER has run once on the array of its name in
INPUTS.npz, minus those after the imports. Imports no torch.
"""

import gc
import sys
from pathlib import Path

import numpy as np

from mmcompress.runtime.onnx import OnnxModel

STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Bytes of this process that lie in memory."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    return 1024 * int(line.split()[1])


def main(folder: str, inputs: str) -> None:
    """Print how many bytes the model in a folder takes."""
    import onnxruntime  # noqa: F401

    with np.load(inputs) as given:
        batches = dict(given)
    gc.collect()
    before = resident_bytes()
    model = OnnxModel(folder)
    for modality, batch in batches.items():
        model.encode(modality, batch)
    print(resident_bytes() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
