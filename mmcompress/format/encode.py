"""From a weight to the chain and payloads that store it in the fewest bytes."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mmcompress.format.chain import Stages
from mmcompress.format.codecs import ans, planes
from mmcompress.format.codecs.base import Arrays, Form, ValueCodec
from mmcompress.format.codecs.bitmask import pack_mask
from mmcompress.format.codecs.floats import Floats
from mmcompress.format.codecs.pack import unpack
from mmcompress.format.codecs.table import CODECS, LATEST, read_codec

MASK_WIDTHS = (1, 4, 8)
"""Bits of a mask that are tried as one symbol; N:M patterns are symbols of M."""

LENGTH_BYTES = 6
"""About what a payload's length takes in the manifest."""

Candidate = tuple[Stages, Arrays]

_Frames = dict[int, tuple[np.ndarray, np.ndarray]]
"""Identity of a payload → the payload, kept alive so that it stays its own, and its frame."""


def encode(
    weight: np.ndarray,
    stage: Mapping[str, Any] | None = None,
    sides: Mapping[str, np.ndarray] | None = None,
    mask: np.ndarray | None = None,
) -> Candidate:
    """Try every chain that fits, keep the smallest.

    Args:
        weight: float32.
        stage: of the values, as a manifest holds it; None when they stay floats.
        sides: its side arrays: `scale`, `zero_point`, `column_scale`, `codebook`, `indices`.
        mask: bool, of the weight's shape, True = kept.
    Returns:
        The stages of the chain and its payloads, as they are stored. What they take in the manifest
        counts as size too.
    Raises:
        AssertionError: stage, side arrays and mask do not describe this weight, bit for bit.
    """
    with np.errstate(all="ignore"):
        candidates = list(_candidates(weight, stage, sides or {}, mask))
    assert candidates, f"{stage} does not give back the weight"
    return min(candidates, key=lambda candidate: _cost(*candidate))


def _candidates(
    weight: np.ndarray,
    stage: Mapping[str, Any] | None,
    sides: Mapping[str, np.ndarray],
    mask: np.ndarray | None,
) -> Iterator[Candidate]:
    """All chains that give the weight back."""
    codec, arrays, form = _to_codes(weight, stage, sides)
    stages: Stages = [dict(stage)] if stage else []
    codes = arrays.pop(codec.codes)
    blocks = codes.reshape(-1, form.columns)
    floats = codec.to_floats(blocks, codec.open_sides(arrays)).reshape(weight.shape)
    frames: _Frames = {}
    # Without a bitmask, what masks drop has to be zero by its code.
    if np.array_equal(floats, weight):
        for writing, written in _ways(codec.codes, codes, form, []):
            yield _entropy_code([*stages, *writing], arrays | written, frames)
    if mask is None:
        return
    assert mask.shape == weight.shape, "a mask has the shape of its weight"
    assert not weight[~mask].any(), "a weight outside its mask is not zero"
    if np.array_equal(np.where(mask, floats, np.float32(0)), weight):
        kept = codes[mask.reshape(len(codes), -1).any(axis=1)]
        masked, stored, coded = _write_mask(mask.reshape(len(blocks), -1))
        stages = [*stages, masked | {"kept": len(kept)}]
        form = form.changed(shape=kept.shape, columns=0)
        for writing, written in _ways(codec.codes, kept, form, coded):
            yield _entropy_code([*stages, *writing], arrays | {"mask": stored} | written, frames)


def _to_codes(
    weight: np.ndarray, stage: Mapping[str, Any] | None, sides: Mapping[str, np.ndarray]
) -> tuple[ValueCodec, Arrays, Form]:
    """The codec of the values, what it makes of them, and the form of all codes."""
    assert weight.dtype == np.float32, f"baked weights are float32, not {weight.dtype}"
    matrix = weight.reshape((weight.shape or (1,))[0], -1)
    codec = Floats() if stage is None else read_codec(stage)
    assert isinstance(codec, ValueCodec), f"{codec.name} makes no codes of values"
    assert set(sides) <= set(codec.sides), f"unknown side tensors in {sorted(sides)}"
    forms = {"values": Form(matrix.shape)}
    whole = {name: array for name, array in sides.items() if array.dtype.kind != "f"}
    halved = {name: _halve(array) for name, array in sides.items() if name not in whole}
    arrays = codec.encode({"values": matrix} | whole | halved, forms)
    if isinstance(codec, Floats):
        arrays["codes"] = _halve(arrays["codes"])
    return codec, arrays, codec.layout(forms, list(arrays))[codec.codes]


def _write_mask(mask: np.ndarray) -> tuple[dict[str, Any], np.ndarray, list[str]]:
    """The smallest of bits as they are and symbols of some width: stage, payload, `of` of ans."""
    stage: dict[str, Any] = {"codec": "bitmask"}
    bits, columns = pack_mask(mask.reshape(-1)), mask.shape[1]
    found = [(stage, bits, list[str]())]
    for width in MASK_WIDTHS:
        if columns % width == 0:
            symbols = unpack(bits, mask.size // width, bits=width)
            frame = ans.encode_symbols(symbols, columns // width)
            found.append((stage | ({"width": width} if width > 1 else {}), frame, ["mask"]))
    return min(found, key=lambda candidate: len(candidate[1]))


def _ways(
    name: str, codes: np.ndarray, form: Form, coded: list[str]
) -> Iterator[tuple[Stages, Arrays]]:
    """Every way to write the codes out, as stages and as what is stored.

    Args:
        name: of the codes.
        codes: those to write: all, or what the mask keeps.
        form: of these.
        coded: which of the other payloads are entropy coded already.
    """
    tail: Stages = [{"codec": "ans", "of": coded}] if coded else []
    if not form.bits:
        yield tail, {name: codes}
    for key, version in LATEST.items():
        for stage in CODECS[key, version].offers(name, form) if form.bits else []:
            written = read_codec(stage).encode({name: codes}, {name: form})
            if key == "ans":
                yield [stage | {"of": [name, *coded]}], written
            else:
                yield [stage, *tail], written


def _halve(values: np.ndarray) -> np.ndarray:
    """As float16 where that loses nothing, else as it is."""
    assert values.dtype in (np.float16, np.float32), f"{values.dtype} is not stored"
    half = values.astype(np.float16)
    return half if np.array_equal(half.astype(values.dtype), values) else values


def _entropy_code(stages: Stages, payloads: Arrays, frames: _Frames) -> Candidate:
    """Compress each payload that gets smaller by it, its mention in the manifest included.

    Args:
        stages, payloads: a candidate.
        frames: what other candidates have compressed already; grows.
    """
    stored, shrunk = dict(payloads), {}
    coded: list[str] = next((stage["of"] for stage in stages if stage["codec"] == "ans"), [])
    for name, payload in payloads.items():
        if name in coded:
            continue
        dtype = payload.dtype.name
        if id(payload) not in frames:
            frames[id(payload)] = payload, planes.compress(payload)
        _, frame = frames[id(payload)]
        mention = len(_compact({name: dtype}))
        if frame.nbytes + mention < payload.nbytes:
            stored[name], shrunk[name] = frame, dtype
    if not shrunk:
        return stages, stored
    return [*stages, {"codec": "planes", "of": shrunk}], stored


def _cost(stages: Stages, payloads: Arrays) -> int:
    stored = sum(payload.nbytes for payload in payloads.values())
    return stored + len(_compact(stages)) + LENGTH_BYTES * len(payloads)


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
