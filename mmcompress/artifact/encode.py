"""From a baked weight and what its steps left behind to what is stored."""

import numpy as np
import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding
from mmcompress.format import encode as format_encode
from mmcompress.format.encode import Candidate


def encode(weight: Tensor, encoding: Encoding) -> Candidate:
    """The chain and the payloads that store the weight in the fewest bytes.

    Args:
        weight: baked, float32.
        encoding: what the recipe left behind for it.
    Raises:
        AssertionError: the encoding does not describe this weight, bit for bit.
    """
    sides = {name: to_numpy(tensor) for name, tensor in encoding.tensors.items()}
    stage = dict(encoding.values) if encoding.values else None
    if stage and stage["codec"] == "codebook":
        entries, block_size = sides["codebook"].shape
        stage |= {"block_size": block_size, "entries": entries}
    mask = None if encoding.mask is None else to_numpy(encoding.mask)
    return format_encode.encode(to_numpy(weight), stage, sides, mask)


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The same values, in the same memory where that is possible; bfloat16 as its bits."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
