"""From a baked weight to the chain and payloads that store it in the fewest bytes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmcompress.artifact.encoding import Encoding
from mmcompress.format.chain import FLOATS, Chain, codes_name, decode
from mmcompress.format.codecs import ans, planes
from mmcompress.format.codecs.bitmask import pack_mask, sparsify, to_symbols
from mmcompress.format.codecs.pack import pack
from mmcompress.functional.float8 import to_float8
from mmcompress.functional.integers import quantise

MASK_WIDTHS = (1, 4, 8)
"""Bits of a mask that are tried as one symbol; N:M patterns are symbols of M."""

LENGTH_BYTES = 6
"""About what a payload's length takes in the manifest."""

_Frames = dict[int, tuple[Tensor, Tensor]]
"""Identity of a payload → the payload, kept alive so that it stays its own, and its frame."""


def encode(weight: Tensor, encoding: Encoding) -> tuple[Chain, dict[str, Tensor]]:
    """Try every chain that fits, keep the smallest.

    Args:
        weight: baked, float32.
        encoding: what the recipe left behind for it.
    Returns:
        The chain and its payloads, as they are stored. What they take in the manifest counts as
        size too.
    Raises:
        AssertionError: the encoding does not describe this weight, bit for bit.
    """
    assert weight.dtype == torch.float32, f"baked weights are float32, not {weight.dtype}"
    weight = weight.detach().cpu().contiguous()
    weight = weight.view(weight.shape or (1,))  # a scalar is a row of one value
    candidates = []
    frames: _Frames = {}
    for ways in _candidates(weight, encoding):
        first = next(ways)
        # Without a bitmask, what masks drop has to be zero by its code. All ways to write the same
        # codes say the same, and what is chosen is read back before it counts as saved.
        if torch.equal(decode(*first, weight.shape), weight):
            candidates += [_entropy_code(*way, frames) for way in (first, *ways)]
    assert candidates, f"{encoding.values} does not give back the weight"
    return min(candidates, key=lambda candidate: _cost(*candidate))


@dataclass(frozen=True)
class _Codes:
    """A weight as codes, before it is decided how they are written.

    Attributes:
        stage: the stage that makes them; None for floats.
        values: flat; integers, or floats.
        sides: what else is stored.
        bits: width of a code; 0 for floats.
        signed: codes run from −2^(bits−1).
    """

    stage: dict[str, Any] | None
    values: Tensor
    sides: dict[str, Tensor]
    bits: int = 0
    signed: bool = False


def _candidates(
    weight: Tensor, encoding: Encoding
) -> Iterator[Iterator[tuple[Chain, dict[str, Tensor]]]]:
    """All chains before byte planes, whether or not they are exact: those of the same codes."""
    made = _to_codes(weight, encoding)
    head: Chain = [made.stage] if made.stage else []
    yield _written(head, made, made.values, made.sides, [], len(made.values) // len(weight))
    if encoding.mask is None:
        return
    mask = encoding.mask.detach().cpu()
    assert mask.shape == weight.shape, "a mask has the shape of its weight"
    assert not weight[~mask].any(), "a weight outside its mask is not zero"
    mask = mask.flatten()
    kept, _ = sparsify(made.values, mask.view(len(made.values), -1).any(dim=1))
    stage, stored, coded = _write_mask(mask, weight[0].numel())
    masked: Chain = [*head, stage | {"kept": len(kept)}]
    yield _written(masked, made, kept, made.sides | {"mask": stored}, coded, None)


def _write_mask(mask: Tensor, columns: int) -> tuple[dict[str, Any], Tensor, list[str]]:
    """The smallest of bits as they are and symbols of some width: stage, payload, `of` of ans."""
    stage: dict[str, Any] = {"codec": "bitmask"}
    found = [(stage, pack_mask(mask), list[str]())]
    for width in MASK_WIDTHS:
        if columns % width == 0:
            frame = ans.encode_symbols(to_symbols(mask, width), columns // width)
            found.append((stage | ({"width": width} if width > 1 else {}), frame, ["mask"]))
    return min(found, key=lambda candidate: len(candidate[1]))


def _written(
    chain: Chain,
    made: _Codes,
    values: Tensor,
    sides: dict[str, Tensor],
    coded: list[str],
    columns: int | None,
) -> Iterator[tuple[Chain, dict[str, Tensor]]]:
    """Every way to write the codes out.

    Args:
        chain: the stages so far.
        made: what the codes are.
        values: those to write: all, or what the mask keeps.
        sides: the other payloads.
        coded: which of them are entropy coded already.
        columns: how many codes stand for a row; None for those of a mask.
    """
    name = codes_name(chain)
    if made.stage is None:
        yield [*chain, *_ans(coded)], sides | {name: values}
        return
    # Whole bytes too: they show what repeats.
    for width in sorted({made.bits, 8 if made.bits <= 8 else 16}):
        packed = pack(values, bits=width, signed=made.signed)
        yield [*chain, {"codec": "pack", "bits": width}, *_ans(coded)], sides | {name: packed}
    if 2**made.bits <= ans.LARGEST_ALPHABET:
        symbols = values + 2 ** (made.bits - 1) if made.signed else values
        yield [*chain, *_ans([name, *coded])], sides | {name: ans.encode_symbols(symbols, columns)}


def _ans(names: list[str]) -> Chain:
    return [{"codec": "ans", "of": names}] if names else []


def _to_codes(weight: Tensor, encoding: Encoding) -> _Codes:
    sides = {name: t.detach().cpu().contiguous() for name, t in encoding.tensors.items()}
    given, matrix = encoding.values, weight.view(len(weight), -1)
    if given is None:
        assert not sides, f"floats have no side tensors {sorted(sides)}"
        return _Codes(None, _halve(weight.flatten()), {})
    if given["codec"] == "quantise":
        return _quantised(matrix, given, sides)
    if given["codec"] == "float8":
        assert set(sides) == {"scale"}, f"unknown side tensors in {sorted(sides)}"
        codes = to_float8(matrix, sides["scale"], group_size=int(given["group_size"]))
        return _Codes(dict(given), codes.flatten(), {"scale": _halve(sides["scale"])}, bits=8)
    assert given["codec"] == "codebook", f"unknown codec {given['codec']!r}"
    assert {"indices", "codebook"} <= set(sides) <= {"indices", "codebook", "scale"}, sorted(sides)
    entries, block_size = sides["codebook"].shape
    stage = {"codec": "codebook", "block_size": block_size, "entries": entries}
    stored = {"codebook": _halve(sides["codebook"])}
    if "scale" in sides:
        stage["group_size"] = int(given["group_size"])
        stored["scale"] = _halve(sides["scale"])
    bits = max((entries - 1).bit_length(), 1)
    return _Codes(stage, sides["indices"].flatten(), stored, bits=bits)


def _quantised(matrix: Tensor, given: dict[str, Any], sides: dict[str, Tensor]) -> _Codes:
    known = {"scale", "zero_point", "column_scale"}
    assert set(sides) <= known, f"unknown side tensors in {sorted(sides)}"
    bits, group_size = int(given["bits"]), int(given["group_size"])
    zero_point, column_scale = sides.get("zero_point"), sides.get("column_scale")
    codes = quantise(
        matrix,
        sides["scale"],
        zero_point,
        bits=bits,
        group_size=group_size,
        midrise=given.get("grid") == "midrise",
        column_scale=column_scale,
    )
    stored = {"scale": _halve(sides["scale"])}
    if zero_point is not None and zero_point.is_floating_point():
        stored["real_zero_point"] = _halve(zero_point)
    elif zero_point is not None:
        stored["zero_point"] = pack(zero_point.flatten(), bits=bits)
    if column_scale is not None:
        stored["column_scale"] = _halve(column_scale)
    return _Codes(dict(given), codes.flatten(), stored, bits=bits, signed=zero_point is None)


def _halve(values: Tensor) -> Tensor:
    """As float16 where that loses nothing, else as it is."""
    assert str(values.dtype).removeprefix("torch.") in FLOATS, f"{values.dtype} is not stored"
    half = values.half()
    return half if torch.equal(half.to(values.dtype), values) else values


def _entropy_code(
    chain: Chain, payloads: dict[str, Tensor], frames: _Frames
) -> tuple[Chain, dict[str, Tensor]]:
    """Compress each payload that gets smaller by it, its mention in the manifest included.

    Args:
        chain, payloads: a candidate.
        frames: what other candidates have compressed already; grows.
    """
    stored, shrunk = dict(payloads), {}
    coded: list[str] = next((stage["of"] for stage in chain if stage["codec"] == "ans"), [])
    for name, payload in payloads.items():
        if name in coded:
            continue
        dtype = str(payload.dtype).removeprefix("torch.")
        if id(payload) not in frames:
            frames[id(payload)] = payload, planes.compress(payload)
        _, frame = frames[id(payload)]
        mention = len(_compact({name: dtype}))
        if frame.nbytes + mention < payload.nbytes:
            stored[name], shrunk[name] = frame, dtype
    if not shrunk:
        return chain, stored
    return [*chain, {"codec": "planes", "of": shrunk}], stored


def _cost(chain: Chain, payloads: dict[str, Tensor]) -> int:
    stored = sum(payload.nbytes for payload in payloads.values())
    return stored + len(_compact(chain)) + LENGTH_BYTES * len(payloads)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
