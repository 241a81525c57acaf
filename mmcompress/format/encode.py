"""From a weight to the chain and payloads that store it in the fewest bytes."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from mmcompress.format.chain import Stages
from mmcompress.format.codecs import ans, planes
from mmcompress.format.codecs.base import Arrays, Form, Offer, ValueCodec
from mmcompress.format.codecs.bitmask import pack_mask
from mmcompress.format.codecs.floats import Floats
from mmcompress.format.codecs.pack import WHOLE, unpack
from mmcompress.format.codecs.table import CODECS, LATEST, read_codec

MASK_WIDTHS = (1, 4, 8)
"""Bits of a mask that are tried as one symbol; N:M patterns are symbols of M."""

Candidate = tuple[Stages, Arrays]

CODES = ("codes", "indices")
"""The payloads of codes."""

SAMPLE = 2**16
"""Codes that are looked at to tell whether neighbors are alike."""


def encode(
    weight: np.ndarray,
    stage: Mapping[str, Any] | None = None,
    sides: Mapping[str, np.ndarray] | None = None,
    mask: np.ndarray | None = None,
) -> Candidate:
    """Weigh every chain that fits by the bytes it would take, and carry the smallest out.

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
        arrays, ways = _find_ways(weight, stage, sides or {}, mask)
    assert ways, f"{stage} does not give back the weight"
    best = min(ways, key=lambda way: way.size + len(_compact(way.stages)))
    return _entropy_code(best.stages, arrays | best.write(), alike=best.alike)


@dataclass(frozen=True)
class Way:
    """How codes and mask could be written.

    Attributes:
        stages: of the chain, before `planes`.
        size: about how many bytes both take.
        write: gives their payloads.
        alike: whether the codes of neighbors are alike, so that `planes` should look at them.
    """

    stages: Stages
    size: float
    write: Callable[[], Arrays]
    alike: bool


def _find_ways(
    weight: np.ndarray,
    stage: Mapping[str, Any] | None,
    sides: Mapping[str, np.ndarray],
    mask: np.ndarray | None,
) -> tuple[Arrays, list[Way]]:
    """The side arrays as they are stored, and all ways that give the weight back."""
    codec, arrays, form = _to_codes(weight, stage, sides)
    stages: Stages = [dict(stage)] if stage else []
    codes = arrays.pop(codec.codes)
    blocks = codes.reshape(-1, form.columns)
    floats = codec.to_floats(blocks, codec.open_sides(arrays)).reshape(weight.shape)
    ways: list[Way] = []
    # Without a bitmask, what masks drop has to be zero by its code.
    if np.array_equal(floats, weight):
        ways += _ways(codec.codes, codes, form, stages)
    if mask is None:
        return arrays, ways
    assert mask.shape == weight.shape, "a mask has the shape of its weight"
    assert not weight[~mask].any(), "a weight outside its mask is not zero"
    if np.array_equal(np.where(mask, floats, np.float32(0)), weight):
        kept = codes[mask.reshape(len(codes), -1).any(axis=1)]
        masked, stored, coded = _write_mask(mask.reshape(len(blocks), -1))
        stages = [*stages, masked | {"kept": len(kept)}]
        form = form.changed(shape=kept.shape, columns=0)
        ways += _ways(codec.codes, kept, form, stages, {"mask": stored}, coded)
    return arrays, ways


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
    bits, columns = pack_mask(mask.reshape(-1)), mask.shape[1]
    found: dict[int, ans.Message] = {}
    for width in MASK_WIDTHS:
        if columns % width == 0:
            symbols = unpack(bits, mask.size // width, bits=width)
            found[width] = ans.Message.of(symbols, columns // width)
    width = min(found, key=lambda width: found[width].size)
    if found[width].size >= len(bits):
        return {"codec": "bitmask"}, bits, []
    stage = {"codec": "bitmask"} | ({"width": width} if width > 1 else {})
    return stage, found[width].encode(), ["mask"]


def _ways(
    name: str,
    codes: np.ndarray,
    form: Form,
    stages: Stages,
    mask: Arrays | None = None,
    coded: Sequence[str] = (),
) -> Iterator[Way]:
    """Every way to write the codes out.

    Args:
        name: of the codes.
        codes: those to write: all, or what the mask keeps.
        form: of these.
        stages: before these.
        mask: its payload, where there is one.
        coded: which of the other payloads are entropy coded already.
    """
    beside, tail = mask or {}, [{"codec": "ans", "of": [*coded]}] if coded else []
    taken = sum(payload.nbytes for payload in beside.values())
    if not form.bits:
        whole = min(codes.nbytes, planes.compress(codes).nbytes)
        yield Way([*stages, *tail], taken + whole, lambda: beside | {name: codes}, alike=True)
        return
    for key, version in LATEST.items():
        for offer in CODECS[key, version].offers(name, codes, form):
            stage = [offer.stage, *tail]
            if key == "ans":
                stage = [offer.stage | {"of": [name, *coded]}]
            size: float = offer.size
            alike = False
            if offer.stage.get("bits") in WHOLE:
                payload = offer.write()
                alike = _are_alike(payload, form)
                size = min(size, planes.compress(payload, by_rows=alike).nbytes)
            write = partial(_write, name, offer, beside)
            yield Way([*stages, *stage], taken + size, write, alike)


def _write(name: str, offer: Offer, beside: Arrays) -> Arrays:
    return beside | {name: offer.write()}


def _halve(values: np.ndarray) -> np.ndarray:
    """As float16 where that loses nothing, else as it is."""
    assert values.dtype in (np.float16, np.float32), f"{values.dtype} is not stored"
    half = values.astype(np.float16)
    return half if np.array_equal(half.astype(values.dtype), values) else values


def _are_alike(codes: np.ndarray, form: Form) -> bool:
    """Whether neighbors of a row are more alike than classes of rows and columns tell.

    Args:
        codes: packed in whole bytes.
        form: of the codes.
    """
    if form.bits > 8:
        return False
    some, columns = codes[:SAMPLE], form.columns or None
    return ans.Message.of(some, planes.ROW).size < ans.Message.of(some, columns).size


def _entropy_code(stages: Stages, payloads: Arrays, *, alike: bool) -> Candidate:
    """Compress each payload that gets smaller by it, its mention in the manifest included.

    Args:
        stages, payloads: of a chain.
        alike: as in `Way`.
    """
    stored, shrunk = dict(payloads), {}
    coded: list[str] = next((stage["of"] for stage in stages if stage["codec"] == "ans"), [])
    for name, payload in payloads.items():
        if name in coded:
            continue
        frame = planes.compress(payload, by_rows=alike or name not in CODES)
        dtype = payload.dtype.name
        if frame.nbytes + len(_compact({name: dtype})) < payload.nbytes:
            stored[name], shrunk[name] = frame, dtype
    if not shrunk:
        return stages, stored
    return [*stages, {"codec": "planes", "of": shrunk}], stored


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
