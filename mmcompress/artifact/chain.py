"""The codec chain of one weight: which stages, in which order, and how it is read back.

    float weight → [quantise | codebook] → [bitmask] → [pack] → [zstd]

A chain is a list of stages as the manifest holds them. What it leaves to store are payloads:
tensors by name (`codes`, or `indices` of a codebook; `scale`, `zero_point`, `codebook`, `mask`).

    {"codec": "quantise", "bits": 4, "group_size": 32}
    {"codec": "codebook", "block_size": 1, "entries": 16}
    {"codec": "bitmask", "kept": 1234}                       codes that the mask keeps
    {"codec": "pack", "bits": 4}
    {"codec": "zstd", "of": {"codes": "uint8", "scale": "float16"}}   dtype once decompressed
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from mmcompress.artifact.codecs import zstd
from mmcompress.artifact.codecs.bitmask import densify, unpack_mask
from mmcompress.artifact.codecs.codebook import lookup
from mmcompress.artifact.codecs.pack import packed_length, unpack
from mmcompress.artifact.codecs.quantise import dequantise

Chain = list[dict[str, Any]]

ORDER = ("quantise", "codebook", "bitmask", "pack", "zstd")
FLOATS = ("float16", "float32")
DTYPES = {"uint8": torch.uint8, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True)
class Layout:
    """What a payload must look like once it is decompressed.

    Attributes:
        shape: of the tensor.
        dtypes: names of the dtypes that may hold it.
        optional: whether the chain works without it.
    """

    shape: tuple[int, ...]
    dtypes: tuple[str, ...] = ("uint8",)
    optional: bool = False


def stages_of(chain: Chain) -> dict[str, dict[str, Any]]:
    """The stages by codec.

    Raises:
        ValueError: a stage is unknown, out of order, or without the one that it needs.
    """
    codecs = [str(stage.get("codec")) for stage in chain]
    integers = {"quantise", "codebook"} & set(codecs)
    if codecs != [codec for codec in ORDER if codec in codecs] or len(integers) == 2:
        raise ValueError(f"its stages {codecs} are not some of {list(ORDER)}, in this order")
    if bool(integers) != ("pack" in codecs):
        raise ValueError(f"its stages {codecs} pack floats, or leave integers unpacked")
    stages = dict(zip(codecs, chain, strict=True))
    if "zstd" in stages and not isinstance(stages["zstd"].get("of"), dict):
        raise ValueError("its zstd stage does not say of which payloads")
    return stages


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
    if not shape or 0 in shape:
        raise ValueError(f"shape {list(shape)} holds no value")
    rows, columns = shape[0], prod(shape[1:])
    found: dict[str, Layout] = {}
    count = rows * columns
    if stage := stages.get("quantise"):
        groups = columns // _divisor(stage, "group_size", columns)
        found["scale"] = Layout((rows, groups), FLOATS)
        points = packed_length(rows * groups, _whole(stage, "bits", 16))
        found["zero_point"] = Layout((points,), optional=True)
    if stage := stages.get("codebook"):
        block_size = _divisor(stage, "block_size", columns)
        found["codebook"] = Layout((_whole(stage, "entries", 2**16), block_size), FLOATS)
        count //= block_size
    if stage := stages.get("bitmask"):
        found["mask"] = Layout((packed_length(rows * columns, 1),))
        count = _whole(stage, "kept", count, low=0)
    if stage := stages.get("pack"):
        width, bits = _whole(stage, "bits", 16), stages.get("quantise", stage)["bits"]
        if width < bits:
            raise ValueError(f"it packs codes of {bits} bits into {width}")
        count = packed_length(count, width)
    found[codes_name(chain)] = Layout((count,), ("uint8",) if "pack" in stages else FLOATS)
    return found


def check_payload(chain: Chain, name: str, expected: Layout, stored: Any) -> None:
    """Refuse a payload before anything is allocated for it.

    Args:
        chain: its stages.
        name: of the payload.
        expected: from `layout`.
        stored: a safetensors slice of it: dtype and shape cost nothing.
    Raises:
        ValueError: it has another dtype or shape, or its frame claims another size.
    """
    names = {"U8": "uint8", "F16": "float16", "F32": "float32"}
    dtype, shape = names.get(stored.get_dtype()), tuple(stored.get_shape())
    shrunk = stages_of(chain).get("zstd", {}).get("of", {})
    if name in shrunk:
        if dtype != "uint8" or len(shape) != 1:
            raise ValueError(f"payload {name} is no row of bytes for zstd but {dtype} {shape}")
        dtype = shrunk[name]
        if dtype in expected.dtypes:
            size = prod(expected.shape) * DTYPES[dtype].itemsize
            zstd.check_frame(stored[: zstd.HEADER_BYTES], shape[0], size)
            return
    elif shape != expected.shape:
        raise ValueError(f"payload {name} has shape {shape} where {expected.shape} is expected")
    if dtype not in expected.dtypes:
        raise ValueError(f"payload {name} is {dtype} and may be {', '.join(expected.dtypes)}")


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
    matrix = (shape[0], prod(shape[1:]))
    codes = payloads[codes_name(chain)]
    total = prod(shape)
    block_size = stages["codebook"]["block_size"] if "codebook" in stages else 1
    kept = stages["bitmask"]["kept"] if "bitmask" in stages else total // block_size
    if stage := stages.get("pack"):
        signed = "quantise" in stages and "zero_point" not in payloads
        codes = unpack(codes, kept, bits=stage["bits"], signed=signed)
    mask = unpack_mask(payloads["mask"], total) if "bitmask" in stages else None
    if mask is not None:
        codes = densify(codes, mask.view(-1, block_size).any(dim=1))
    if stage := stages.get("quantise"):
        scale, zero_point = payloads["scale"], None
        if "zero_point" in payloads:
            zero_point = unpack(payloads["zero_point"], scale.numel(), bits=stage["bits"])
            zero_point = zero_point.view_as(scale)
        codes = codes.reshape(matrix)
        values = dequantise(codes, scale, zero_point, group_size=stage["group_size"])
    elif "codebook" in stages:
        if not 0 <= codes.min() <= codes.max() < len(payloads["codebook"]):
            raise ValueError("an index points past the end of its codebook")
        values = lookup(codes, payloads["codebook"], shape)
    else:
        values = codes.float()
    values = values.reshape(shape)
    # A mask drops weights, not codes: what a code of zero stands for need not be 0.0.
    return values if mask is None else torch.where(mask.view(shape), values, 0.0)


def _decompress(
    stages: Mapping[str, Any], expected: Mapping[str, Layout], payloads: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    shrunk = stages["zstd"]["of"] if "zstd" in stages else {}
    return {
        name: zstd.decompress(payload, DTYPES[shrunk[name]], prod(expected[name].shape)).view(
            expected[name].shape
        )
        if name in shrunk
        else payload
        for name, payload in payloads.items()
    }


def _whole(stage: Mapping[str, Any], key: str, high: int, *, low: int = 1) -> int:
    value = stage.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{stage['codec']} has {key}={value!r}, not in {low}…{high}")
    return value


def _divisor(stage: Mapping[str, Any], key: str, columns: int) -> int:
    value = _whole(stage, key, columns)
    if columns % value:
        raise ValueError(f"{stage['codec']} has {key}={value}, no divisor of {columns} columns")
    return value
