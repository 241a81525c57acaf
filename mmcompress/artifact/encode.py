"""From a baked weight to the chain and payloads that store it in the fewest bytes."""

import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mmcompress.artifact.chain import FLOATS, Chain, codes_name, decode
from mmcompress.artifact.codecs import zstd
from mmcompress.artifact.codecs.bitmask import pack_mask, sparsify
from mmcompress.artifact.codecs.pack import pack
from mmcompress.artifact.codecs.quantise import quantise
from mmcompress.artifact.encoding import Encoding

HEADER_BYTES = 80
"""About what a payload's name, dtype, shape and offsets take in the safetensors header."""


def encode(weight: Tensor, encoding: Encoding) -> tuple[Chain, dict[str, Tensor]]:
    """Try every chain that fits, keep the smallest.

    Args:
        weight: baked, float32, at least one dimension.
        encoding: what the recipe left behind for it.
    Returns:
        The chain and its payloads, as they are stored. What their names take in the manifest and
        in the header counts as size too.
    Raises:
        AssertionError: the encoding does not describe this weight, bit for bit.
    """
    assert weight.dtype == torch.float32, f"baked weights are float32, not {weight.dtype}"
    weight = weight.detach().cpu().contiguous()
    candidates = []
    for chain, payloads in _candidates(weight, encoding):
        # Without a bitmask, what masks drop has to be zero by its code.
        if torch.equal(decode(chain, payloads, weight.shape), weight):
            candidates.append(_entropy_code(chain, payloads))
    assert candidates, f"{encoding.values} does not give back the weight"
    return min(candidates, key=lambda candidate: _cost(*candidate))


def _candidates(weight: Tensor, encoding: Encoding) -> Iterator[tuple[Chain, dict[str, Tensor]]]:
    """All chains before entropy coding, whether or not they are exact."""
    stage, codes, sides, bits, signed = _to_codes(weight, encoding)
    head = [stage] if stage else []
    name = codes_name(head)
    streams: list[tuple[Chain, Tensor, dict[str, Tensor]]] = [(head, codes, sides)]
    if encoding.mask is not None:
        mask = encoding.mask.detach().cpu()
        assert mask.shape == weight.shape, "a mask has the shape of its weight"
        assert not weight[~mask].any(), "a weight outside its mask is not zero"
        mask = mask.flatten()
        kept, _ = sparsify(codes, mask.view(len(codes), -1).any(dim=1))
        masked: Chain = [*head, {"codec": "bitmask", "kept": len(kept)}]
        streams.append((masked, kept, sides | {"mask": pack_mask(mask)}))
    for chain, values, others in streams:
        if stage is None:
            yield chain, others | {name: values}
            continue
        # Whole bytes too: a byte per code is what entropy coding likes best.
        for width in sorted({bits, 8 if bits <= 8 else 16}):
            packed = pack(values, bits=width, signed=signed)
            yield [*chain, {"codec": "pack", "bits": width}], others | {name: packed}


def _to_codes(
    weight: Tensor, encoding: Encoding
) -> tuple[dict[str, Any] | None, Tensor, dict[str, Tensor], int, bool]:
    """Stage, flat codes, side tensors, bits and sign of the stage that makes integers."""
    sides = {name: t.detach().cpu().contiguous() for name, t in encoding.tensors.items()}
    given = encoding.values
    if given is None:
        assert not sides, f"floats have no side tensors {sorted(sides)}"
        return None, _halve(weight.flatten()), {}, 0, False
    if given["codec"] == "quantise":
        assert set(sides) <= {"scale", "zero_point"}, f"unknown side tensors in {sorted(sides)}"
        bits, group_size = int(given["bits"]), int(given["group_size"])
        zero_point = sides.get("zero_point")
        codes = quantise(
            weight.view(len(weight), -1),
            sides["scale"],
            zero_point,
            bits=bits,
            group_size=group_size,
        )
        stored = {"scale": _halve(sides["scale"])}
        if zero_point is not None:
            stored["zero_point"] = pack(zero_point.flatten(), bits=bits)
        stage = {"codec": "quantise", "bits": bits, "group_size": group_size}
        return stage, codes.flatten(), stored, bits, zero_point is None
    assert given["codec"] == "codebook", f"unknown codec {given['codec']!r}"
    assert set(sides) == {"indices", "codebook"}, f"unknown side tensors in {sorted(sides)}"
    entries, block_size = sides["codebook"].shape
    stage = {"codec": "codebook", "block_size": block_size, "entries": entries}
    stored = {"codebook": _halve(sides["codebook"])}
    return stage, sides["indices"].flatten(), stored, max((entries - 1).bit_length(), 1), False


def _halve(values: Tensor) -> Tensor:
    """As float16 where that loses nothing, else as it is."""
    assert str(values.dtype).removeprefix("torch.") in FLOATS, f"{values.dtype} is not stored"
    half = values.half()
    return half if torch.equal(half.to(values.dtype), values) else values


def _entropy_code(chain: Chain, payloads: dict[str, Tensor]) -> tuple[Chain, dict[str, Tensor]]:
    """Compress each payload that gets smaller by it, its mention in the manifest included."""
    stored, shrunk = dict(payloads), {}
    for name, payload in payloads.items():
        dtype = str(payload.dtype).removeprefix("torch.")
        frame = zstd.compress(payload)
        mention = len(_compact({name: dtype}))
        if frame.nbytes + mention < payload.nbytes and payload.nbytes <= (
            frame.nbytes * zstd.MAX_EXPANSION
        ):
            stored[name], shrunk[name] = frame, dtype
    if not shrunk:
        return chain, stored
    return [*chain, {"codec": "zstd", "of": shrunk}], stored


def _cost(chain: Chain, payloads: dict[str, Tensor]) -> int:
    stored = sum(payload.nbytes for payload in payloads.values())
    return stored + len(_compact(chain)) + HEADER_BYTES * len(payloads)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
