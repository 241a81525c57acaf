"""The codec chain of one weight: which stages, in which order, and how it is read back.

    float weight → [quantise | float8 | codebook] → [bitmask] → [pack | ans] → [planes]

A chain is a list of stages as the manifest holds them. What it leaves to store are payloads:
tensors by name (`codes`, or `indices` of a codebook; `scale`, `zero_point`, `column_scale`,
`codebook`, `mask`).

    {"codec": "quantise", "bits": 4, "group_size": 32}       also "grid": "midrise"
    {"codec": "float8", "format": "e4m3", "group_size": 32}
    {"codec": "codebook", "block_size": 1, "entries": 16}    also "group_size": of its scale
    {"codec": "bitmask", "kept": 1234}                       codes that the mask keeps
    {"codec": "pack", "bits": 4}
    {"codec": "ans", "of": ["codes", "mask"]}                entropy coded, row by row
    {"codec": "planes", "of": {"scale": "float16"}}          dtype once decompressed

A mask is entropy coded in symbols of `"width"` bits of the bitmask stage, 1 where it has none.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from mmcompress.format.codecs import ans, planes
from mmcompress.format.codecs.bitmask import densify, from_symbols, unpack_mask
from mmcompress.format.codecs.pack import packed_length, unpack
from mmcompress.functional.float8 import from_float8
from mmcompress.functional.integers import dequantise
from mmcompress.functional.lookup import lookup

Chain = list[dict[str, Any]]

INTEGERS = ("quantise", "float8", "codebook")
ORDER = (*INTEGERS, "bitmask", "pack", "ans", "planes")
FLOATS = ("float16", "float32")
DTYPES = {"uint8": torch.uint8, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Layout:
    """What a payload must look like once it is decompressed.

    Attributes:
        shape: of the tensor; how many symbols for a frame of entropy coded ones.
        dtypes: names of the dtypes that may hold it.
        optional: whether the chain works without it.
        symbols: an entropy coded frame, whose length only its content tells.
        columns: symbols in a row of the matrix that they are; 0 when they are none.
        bits: width of a symbol.
    """

    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = ("uint8",)
    optional: bool = False
    symbols: bool = False
    columns: int = 0
    bits: int = 0


def stages_of(chain: Chain) -> dict[str, dict[str, Any]]:
    """The stages by codec.

    Raises:
        ValueError: a stage is unknown, out of order, or without the one that it needs.
    """
    codecs = [str(stage.get("codec")) for stage in chain]
    integers = set(INTEGERS) & set(codecs)
    if codecs != [codec for codec in ORDER if codec in codecs] or len(integers) > 1:
        raise ValueError(f"its stages {codecs} are not some of {list(ORDER)}, in this order")
    stages = dict(zip(codecs, chain, strict=True))
    coded = stages.get("ans", {"of": []}).get("of")
    if not isinstance(coded, list) or not set(map(str, coded)) <= {codes_name(chain), "mask"}:
        raise ValueError("its ans stage does not say of which payloads")
    if bool(integers) != ("pack" in codecs or codes_name(chain) in coded):
        raise ValueError(f"its stages {codecs} pack floats, or leave integers unpacked")
    if "pack" in codecs and codes_name(chain) in coded:
        raise ValueError("it packs codes and entropy codes them too")
    if "planes" in stages and not isinstance(stages["planes"].get("of"), dict):
        raise ValueError("its planes stage does not say of which payloads")
    return stages


def frames_of(chain: Chain) -> dict[str, str]:
    """Payloads that are frames of byte planes → dtype of what is in them."""
    return stages_of(chain).get("planes", {"of": {}})["of"]


def codes_name(chain: Chain) -> str:
    """The payload that holds the values themselves."""
    return "indices" if any(stage["codec"] == "codebook" for stage in chain) else "codes"


def layout(chain: Chain, shape: Sequence[int]) -> dict[str, Layout]:
    """What each payload must look like, from the numbers in the manifest alone.

    Args:
        chain: its stages.
        shape: of the weight.
    Raises:
        ValueError: the stages are no chain, or do not fit a weight of this shape.
    """
    stages = stages_of(chain)
    if 0 in shape:
        raise ValueError(f"shape {list(shape)} holds no value")
    rows, columns = _matrix(shape)
    found: dict[str, Layout] = {}
    count, length = rows * columns, columns
    if stage := stages.get("quantise"):
        groups = columns // _divisor(stage, "group_size", columns)
        bits = _whole(stage, "bits", 16)
        if stage.get("grid", "midrise") != "midrise":
            raise ValueError(f"quantise has grid={stage['grid']!r}, and knows midrise only")
        found["scale"] = Layout((rows, groups), FLOATS)
        points = packed_length(rows * groups, bits)
        found["zero_point"] = Layout((points,), optional=True)
        found["real_zero_point"] = Layout((rows, groups), FLOATS, optional=True)
        found["column_scale"] = Layout((columns,), FLOATS, optional=True)
    if stage := stages.get("float8"):
        if stage.get("format") != "e4m3":
            raise ValueError(f"float8 has format={stage.get('format')!r}, and knows e4m3 only")
        groups = columns // _divisor(stage, "group_size", columns)
        found["scale"] = Layout((rows, groups), FLOATS)
    if stage := stages.get("codebook"):
        block_size = _divisor(stage, "block_size", columns)
        found["codebook"] = Layout((_whole(stage, "entries", 2**16), block_size), FLOATS)
        count, length = count // block_size, length // block_size
        if "group_size" in stage:
            groups = columns // _divisor(stage, "group_size", columns)
            found["scale"] = Layout((rows, groups), FLOATS)
    coded = stages["ans"]["of"] if "ans" in stages else []
    if stage := stages.get("bitmask"):
        width = _divisor({"width": 1} | stage, "width", columns, high=8)
        if "mask" in coded:
            found["mask"] = _symbols(rows * columns // width, columns // width, width)
        else:
            found["mask"] = Layout((packed_length(rows * columns, 1),))
        count, length = _whole(stage, "kept", count, low=0), 0
    elif "mask" in coded:
        raise ValueError("it entropy codes a mask that it does not have")
    name = codes_name(chain)
    if name in coded:
        bits = ans.LARGEST_ALPHABET.bit_length() - 1
        found[name] = _symbols(count, length, bits)
    elif stage := stages.get("pack"):
        width, bits = _whole(stage, "bits", 16), stages.get("quantise", stage)["bits"]
        if width < bits:
            raise ValueError(f"it packs codes of {bits} bits into {width}")
        found[name] = Layout((packed_length(count, width),))
    else:
        found[name] = Layout((count,), FLOATS)
    return found


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of a weight; a scalar is a row of one value."""
    return (shape[0] if shape else 1), prod(shape[1:])


def _symbols(count: int, columns: int, bits: int) -> Layout:
    return Layout((count,), symbols=True, columns=columns, bits=bits)


def check_payload(
    chain: Chain, name: str, expected: Layout, dtype: str, length: int, head: Tensor
) -> None:
    """Refuse a payload before anything is allocated for it.

    Args:
        chain: its stages.
        name: of the payload.
        expected: from `layout`.
        dtype: that it is stored in.
        length: of what is stored, in bytes.
        head: how it begins, (at least `planes.HEADER_BYTES` or all,) uint8.
    Raises:
        ValueError: it has another dtype or length, or its frame claims another size.
    """
    shrunk = frames_of(chain)
    if (expected.symbols or name in shrunk) and dtype != "uint8":
        raise ValueError(f"payload {name} is a frame of {dtype}, and frames are uint8")
    if expected.symbols:
        if name in shrunk:
            raise ValueError(f"payload {name} is entropy coded twice")
        return
    dtype = shrunk.get(name, dtype)
    if dtype not in expected.dtypes:
        raise ValueError(f"payload {name} is {dtype} and may be {', '.join(expected.dtypes)}")
    count, width = prod(expected.shape), DTYPES[dtype].itemsize
    size = count * width
    if name in shrunk:
        planes.check_length(head, length, count, width)
    elif length != size:
        raise ValueError(
            f"payload {name} has {length} bytes where {size} are expected, for {expected.shape}"
        )


def view_payload(chain: Chain, name: str, expected: Layout, dtype: str, data: Tensor) -> Tensor:
    """A payload as `decode` takes it, no longer mere bytes.

    Args:
        chain, name, expected, dtype: those that passed `check_payload`.
        data: all its bytes, (length,) uint8, aligned for any dtype.
    """
    if expected.symbols or name in frames_of(chain):
        return data
    return data.view(DTYPES[dtype]).view(expected.shape)


def decode(chain: Chain, payloads: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
    """The weight that the payloads stand for.

    Args:
        chain: its stages.
        payloads: as stored; each has passed `check_payload`.
        shape: of the weight.
    Returns:
        `shape`, float32.
    Raises:
        ValueError: a payload contradicts the chain.
    """
    stages, expected, shape = stages_of(chain), layout(chain, shape), tuple(shape)
    payloads = _decompress(stages, expected, payloads)
    total = prod(shape)
    block_size = stages["codebook"]["block_size"] if "codebook" in stages else 1
    kept = stages["bitmask"]["kept"] if "bitmask" in stages else total // block_size
    codes = _read_codes(chain, stages, payloads, expected, kept)
    mask = _read_mask(stages, payloads, expected, total)
    if mask is not None:
        codes = densify(codes, mask.view(-1, block_size).any(dim=1))
    values = _to_floats(stages, codes, payloads, shape)
    # A mask drops weights, not codes: what a code of zero stands for need not be 0.0.
    return values if mask is None else torch.where(mask.view(shape), values, 0.0)


def _read_codes(
    chain: Chain,
    stages: Mapping[str, Any],
    payloads: Mapping[str, Tensor],
    expected: Mapping[str, Layout],
    count: int,
) -> Tensor:
    """The codes that are stored, (count,): integers, or floats when nothing makes integers."""
    name = codes_name(chain)
    codes = payloads[name]
    signed = is_signed(stages, payloads)
    if "ans" in stages and name in stages["ans"]["of"]:
        symbols = _read_symbols(codes, expected[name])
        low = -(2 ** (stages["quantise"]["bits"] - 1)) if signed else 0
        return symbols + low
    if stage := stages.get("pack"):
        return unpack(codes, count, bits=stage["bits"], signed=signed)
    return codes


def is_signed(stages: Mapping[str, Any], sides: Mapping[str, Tensor]) -> bool:
    """Whether codes run from below zero: those of a grid without a zero point."""
    return "quantise" in stages and not {"zero_point", "real_zero_point"} & sides.keys()


def _read_symbols(frame: Tensor, expected: Layout) -> Tensor:
    return ans.decode_symbols(frame, expected.shape[0], 2**expected.bits, expected.columns or None)


def _read_mask(
    stages: Mapping[str, Any],
    payloads: Mapping[str, Tensor],
    expected: Mapping[str, Layout],
    count: int,
) -> Tensor | None:
    if "bitmask" not in stages:
        return None
    if "mask" in stages.get("ans", {"of": []})["of"]:
        symbols = _read_symbols(payloads["mask"], expected["mask"])
        return from_symbols(symbols, expected["mask"].bits)
    return unpack_mask(payloads["mask"], count)


def _to_floats(
    stages: Mapping[str, Any],
    codes: Tensor,
    payloads: Mapping[str, Tensor],
    shape: tuple[int, ...],
) -> Tensor:
    """The values that codes stand for, of the weight's shape."""
    matrix = _matrix(shape)
    if stage := stages.get("quantise"):
        scale = payloads["scale"]
        zero_point = payloads.get("real_zero_point")
        if "zero_point" in payloads:
            points = unpack(payloads["zero_point"], scale.numel(), bits=stage["bits"])
            zero_point = points.view_as(scale)
        values = dequantise(
            codes.reshape(matrix),
            scale,
            zero_point,
            group_size=stage["group_size"],
            midrise="grid" in stage,
            column_scale=payloads.get("column_scale"),
        )
    elif stage := stages.get("float8"):
        patterns = codes.reshape(matrix).to(torch.uint8)
        values = from_float8(patterns, payloads["scale"], group_size=stage["group_size"])
    elif "codebook" in stages:
        if len(codes) and not 0 <= codes.min() <= codes.max() < len(payloads["codebook"]):
            raise ValueError("an index points past the end of its codebook")
        values = lookup(codes, payloads["codebook"], shape, payloads.get("scale"))
    else:
        values = codes.float()
    return values.reshape(shape)


def _decompress(
    stages: Mapping[str, Any], expected: Mapping[str, Layout], payloads: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    shrunk = stages["planes"]["of"] if "planes" in stages else {}
    found = dict(payloads)
    for name, dtype in shrunk.items():
        shape = expected[name].shape
        found[name] = planes.decompress(payloads[name], DTYPES[dtype], prod(shape)).view(shape)
    return found


def _whole(stage: Mapping[str, Any], key: str, high: int, *, low: int = 1) -> int:
    value = stage.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{stage['codec']} has {key}={value!r}, not in {low}…{high}")
    return value


def _divisor(stage: Mapping[str, Any], key: str, columns: int, *, high: int | None = None) -> int:
    value = _whole(stage, key, high or columns)
    if columns % value:
        raise ValueError(f"{stage['codec']} has {key}={value}, no divisor of {columns} columns")
    return value
