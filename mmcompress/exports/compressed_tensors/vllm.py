"""What vLLM asks of a checkpoint in compressed-tensors, checked here and not run.

https://docs.vllm.ai/en/latest/features/quantization: symmetric weights with a scale for a row or a
group and float inputs, or 8-bit weights with a scale for a row and inputs of 8 bits per token. It
joins q, k and v, and gate and up, to one layer each, which has one scheme.
"""

from collections.abc import Mapping
from dataclasses import replace

from mmcompress.exports.compressed_tensors.layers import Held

DENSE_ROLES = ("embed", "head")
"""Of weights that it reads as floats."""

WIDTHS = (4, 8)
"""Bits that each of its versions has kernels for."""

JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def fitting(held: Mapping[str, Held]) -> dict[str, Held]:
    """The same codes, each in 4 or 8 bits.

    Raises:
        ValueError: a scheme that it has no kernel for, or two in layers that it joins.
    """
    found = {path: _widened(layer) for path, layer in held.items()}
    for path, layer in found.items():
        if layer.scheme.input_bits and layer.scheme.packed:
            raise ValueError(
                f"{path} has {layer.scheme}, and vLLM rounds inputs for 8-bit weights with a "
                "scale per row alone: compress with w8a8, or set --target transformers"
            )
    for path, layer in found.items():
        parent, _, name = path.rpartition(".")
        for names in JOINED:
            if name in names:
                _check_alike(layer, [f"{parent}.{other}" for other in names], found, path)
    return found


def _widened(held: Held) -> Held:
    bits = min(width for width in WIDTHS if width >= held.scheme.bits)
    return replace(held, scheme=replace(held.scheme, bits=bits))


def _check_alike(layer: Held, joined: list[str], found: Mapping[str, Held], path: str) -> None:
    for other in joined:
        scheme = found[other].scheme if other in found else "floats"
        if scheme != layer.scheme:
            raise ValueError(
                f"{path} has {layer.scheme} and {other} {scheme}, and vLLM joins them to one "
                "layer: compress them alike, or set --target transformers"
            )
