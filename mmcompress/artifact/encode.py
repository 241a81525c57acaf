"""From a baked weight and what its steps left behind to what is stored."""

import numpy as np
import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding
from mmcompress.format import encode as format_encode
from mmcompress.format.encode import Candidate


def encode(weight: Tensor, encoding: Encoding, *, name: str = "the weight") -> Candidate:
    """The chain and the payloads that store the weight in the fewest bytes.

    Args:
        weight: baked, float32.
        encoding: what the recipe left behind for it.
        name: of the weight, for messages.
    Raises:
        ValueError: the encoding's settings or the shapes of its tensors do not fit this weight, as
            those of a user's own method may; names the steps and the weight.
        AssertionError: they fit, and do not describe this weight, bit for bit.
    """
    try:
        return _encode(weight, encoding)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise ValueError(_misfit(name, weight, encoding, error)) from error


def _encode(weight: Tensor, encoding: Encoding) -> Candidate:
    sides = {name: to_numpy(tensor) for name, tensor in encoding.tensors.items()}
    stage = dict(encoding.values) if encoding.values else None
    if stage and stage["codec"] == "codebook":
        entries, block_size = sides["codebook"].shape
        stage |= {"block_size": block_size, "entries": entries}
    mask = None if encoding.mask is None else to_numpy(encoding.mask)
    if mask is not None and (mask.shape, mask.dtype) != (tuple(weight.shape), np.bool_):
        raise ValueError("a mask is bool and has the shape of its weight")
    return format_encode.encode(to_numpy(weight), stage, sides, mask)


def _misfit(name: str, weight: Tensor, encoding: Encoding, error: Exception) -> str:
    given = dict(encoding.tensors)
    if encoding.mask is not None:
        given["mask"] = encoding.mask
    tensors = "".join(
        f", {key} {tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
        for key, tensor in given.items()
    )
    why = f"no {error}" if isinstance(error, KeyError) else str(error).strip()
    return (
        f"step {', '.join(encoding.steps) or 'without a name'}: finalize says that {name} "
        f"{tuple(weight.shape)} is stored with {dict(encoding.values or {})}{tensors}, which does "
        f"not fit it ({why}): return an Encoding as docs/format.md describes the codec"
    )


def to_numpy(tensor: Tensor) -> np.ndarray:
    """The same values, in the same memory where that is possible; bfloat16 as its bits."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(np.uint16)
    return tensor.numpy()
