"""The dense model cast to float16: what every method has to beat, in bytes and in accuracy."""

import copy
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmcompress.artifact.dense import dense_checksum, dense_file_bytes
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.data.base import PairData
from mmcompress.evaluation.base import Comparison, Evaluator
from mmcompress.evaluation.baseline import dense_baseline
from mmcompress.functional.float16 import round_to_float16


def float16_baseline(
    dense: Backbone,
    data: PairData,
    evaluators: Mapping[str, Evaluator | Comparison],
    split: str,
) -> dict[str, Any]:
    """Scores and sizes of the dense model whose weights are rounded to float16.

    It computes in float32, as every compressed model does. Its scores are cached by content, like
    those of the dense model.

    Args:
        dense: left as it is.
    Returns:
        `metrics`, and the sizes `plain` and `coded`: bytes of the safetensors file in float16, and
        bytes of the artifact of a recipe without steps, which is the same tensors entropy coded;
        each with `compression_ratio` and `bits_per_weight`.
    """
    cast = cast_to_float16(dense)
    metrics = dense_baseline(
        cast, data, evaluators, split, checksum=dense_checksum(cast.model), reference=dense
    )
    parameters = sum(p.numel() for p in dense.parameters())
    before = dense_file_bytes(dense.model)
    plain = dense_file_bytes(dense.model, halved=True)
    with tempfile.TemporaryDirectory() as folder:
        artifact = Artifact.save(
            Path(folder) / "artifact",
            cast,
            structure=[],
            encodings={},
            reasons={},
            dense_bytes=before,
            dense_parameters=parameters,
            dense_dtype="float16",
            run={},
        )
        sizes = {"plain": plain, "coded": artifact.bytes}
    return {"metrics": metrics} | {
        name: {
            "bytes": size,
            "compression_ratio": before / size,
            "bits_per_weight": 8 * size / parameters,
        }
        for name, size in sizes.items()
    }


@torch.no_grad()
def cast_to_float16(dense: Backbone) -> Backbone:
    """A copy with every weight rounded to float16, except tensors that float16 cannot hold."""
    cast = copy.deepcopy(dense)
    for tensor in cast.model.state_dict().values():
        if tensor.dtype == torch.float32:
            tensor.copy_(round_to_float16(tensor))
    return cast
