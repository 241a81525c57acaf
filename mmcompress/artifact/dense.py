"""The figure that an artifact is compared with."""

import tempfile
from pathlib import Path

from safetensors.torch import save_model
from torch import nn


def dense_file_bytes(model: nn.Module) -> int:
    """Size of the safetensors file that holds the model as it is, tied tensors once.

    It is written to a temporary folder and measured, for the header counts too.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(model, str(path))
        return path.stat().st_size
