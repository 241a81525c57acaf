"""A reader of artifacts, written from docs/format.md alone: it imports nothing of mmcompress."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

DTYPES = {"float32": "<f4", "float16": "<f2", "uint8": "u1", "int64": "<i8"}


def read_artifact(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Name and values of every tensor."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    found = sorted(walk((), manifest["tensors"]))
    for file in manifest["files"]:
        here, found = found[: file["tensors"]], found[file["tensors"] :]
        yield from read_file(folder / file["name"], here, manifest)


def walk(path: tuple[str, ...], node: Any) -> Iterator[tuple[str, int, Any]]:
    """Name, form and row of each tensor."""
    if isinstance(node, dict):
        for part, child in node.items():
            yield from walk((*path, part), child)
        return
    for form, rows in zip(node[::2], node[1::2], strict=True):
        if isinstance(rows, str):
            spans = [span.split("-") for span in rows.split(",")]
            numbers = [str(n) for s in spans if s != [""] for n in range(int(s[0]), int(s[-1]) + 1)]
            rows = dict.fromkeys(numbers or [""])
        for number, row in rows.items():
            yield ".".join(number if part == "*" else part for part in path), form, row


def read_file(path: Path, tensors: list, manifest: dict) -> Iterator[tuple[str, np.ndarray]]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    stored = {
        name: np.frombuffer(data[8 + length :][slice(*about["data_offsets"])], np.uint8)
        for name, about in json.loads(data[8 : 8 + length]).items()
        if name != "__metadata__"
    }
    used, start, codebooks = {}, 0, {}
    for name, form, row in tensors:
        shape = manifest["forms"][form]["shape"]
        count = int(np.prod(shape))
        if row is None:
            dtype = manifest["forms"][form].get("dtype", "float32")
            dtype = manifest["dense_dtype"] if dtype == "float32" else dtype
            used[dtype] = used.get(dtype, 0) + count
            total = sum(
                int(np.prod(manifest["forms"][f]["shape"]))
                for _, f, r in tensors
                if r is None and manifest["forms"][f].get("dtype", "float32") == "float32"
            )
            if f"dense.{dtype}.planes" in stored:
                assert total <= 2**22  # one frame
                whole = planes(stored[f"dense.{dtype}.planes"], dtype, total)
            else:
                whole = stored[f"dense.{dtype}"].view(DTYPES[dtype])
            yield name, whole[used[dtype] - count : used[dtype]].reshape(shape)
            continue
        kind = manifest["kinds"][row[0]]
        payloads = {}
        for payload, size in zip(sorted(kind["payloads"]), row[1:], strict=False):
            if isinstance(size, str):
                payloads[payload] = codebooks[size]
                continue
            raw = stored["payloads"][start : start + size]
            payloads[payload] = raw.copy().view(DTYPES[kind["payloads"][payload]])
            start += size
        codebooks[name] = payloads.get("codebook")
        yield name, undo(kind["chain"], payloads, shape, row[-1])


def undo(chain: list, payloads: dict, shape: list, kept: int) -> np.ndarray:
    rows, columns = shape[0], int(np.prod(shape[1:]))
    stage = {s["codec"]: s for s in chain}
    name = "indices" if "codebook" in stage else "codes"
    block = stage.get("codebook", {}).get("block_size", 1)
    masked = "bitmask" in stage
    count = kept if masked else rows * columns // block
    for payload, dtype in stage.get("planes", {"of": {}})["of"].items():
        sizes = {
            "scale": rows * columns,
            "codebook": block * stage.get("codebook", {}).get("entries", 0),
        }
        groups = columns // next((s["group_size"] for s in chain if "group_size" in s), columns)
        sizes |= {"scale": rows * groups, "real_zero_point": rows * groups, "column_scale": columns}
        bits = stage.get("quantize", {}).get("bits", 0)
        sizes |= {"zero_point": -(-rows * groups * bits // 8), "mask": -(-rows * columns // 8)}
        packed = stage.get("pack", {"bits": 0})["bits"] * count
        sizes[name] = -(-packed // 8) if "pack" in stage else count
        payloads[payload] = planes(payloads[payload], dtype, sizes[payload])
    coded = stage.get("ans", {"of": []})["of"]
    signed = "quantize" in stage and not {"zero_point", "real_zero_point"} & payloads.keys()
    codes = payloads[name]
    if name in coded:
        codes = ans(codes, count, count if masked else columns // block)
        codes = codes - (2 ** (stage["quantize"]["bits"] - 1) if signed else 0)
    elif "pack" in stage:
        bits = stage["pack"]["bits"]
        codes = unpack(codes, bits, count) - (2 ** (bits - 1) if signed else 0)
    mask = np.ones(rows * columns, bool)
    if masked:
        if "mask" in coded:
            width = stage["bitmask"].get("width", 1)
            symbols = ans(payloads["mask"], rows * columns // width, columns // width)
            mask = (symbols[:, None] >> np.arange(width) & 1).ravel().astype(bool)
        else:
            mask = unpack(payloads["mask"], 1, rows * columns).astype(bool)
        every = np.zeros(rows * columns // block, codes.dtype)
        every[mask.reshape(-1, block).any(axis=1)] = codes
        codes = every
    values = to_floats(stage, codes, payloads, rows, columns)
    return np.where(mask, values.ravel(), np.float32(0)).reshape(shape)


def to_floats(stage: dict, codes: np.ndarray, payloads: dict, rows: int, columns: int) -> Any:
    def groups(matrix: np.ndarray) -> np.ndarray:
        return matrix.reshape(rows, -1, 1).astype(np.float32)

    if "codebook" in stage:
        entries, block = stage["codebook"]["entries"], stage["codebook"]["block_size"]
        values = payloads["codebook"].reshape(entries, block).astype(np.float32)[codes]
        if "scale" in payloads:
            values = values.reshape(rows, columns // stage["codebook"]["group_size"], -1)
            values = values * groups(payloads["scale"])
        return values
    if "float8" in stage:
        sign, exponent, mantissa = codes >> 7, codes >> 3 & 15, codes & 7
        normal = (8 + mantissa) * 2.0 ** (exponent - 10.0)
        values = np.where(exponent == 0, mantissa * 2.0**-9, normal) * np.where(sign, -1, 1)
        values = values.astype(np.float32).reshape(rows, -1, stage["float8"]["group_size"])
        return values * groups(payloads["scale"])
    if "quantize" not in stage:
        return codes.astype(np.float32)
    values = codes.astype(np.float32).reshape(rows, -1, stage["quantize"]["group_size"])
    if "zero_point" in payloads:
        points = unpack(payloads["zero_point"], stage["quantize"]["bits"], payloads["scale"].size)
        values = values - groups(points)
    elif "real_zero_point" in payloads:
        values = values - groups(payloads["real_zero_point"])
    elif "grid" in stage["quantize"]:
        values = values + np.float32(0.5)
    values = (values * groups(payloads["scale"])).reshape(rows, columns)
    if "column_scale" in payloads:
        values = values * payloads["column_scale"].astype(np.float32)
    return values


def unpack(data: np.ndarray, bits: int, count: int) -> np.ndarray:
    stream = np.unpackbits(data, bitorder="little")[: bits * count].reshape(count, bits)
    return (stream.astype(np.int64) << np.arange(bits)).sum(axis=1)


def planes(frame: np.ndarray, dtype: str, count: int) -> np.ndarray:
    width, place, parts = np.dtype(DTYPES[dtype]).itemsize, 0, []
    for _ in range(width):
        coding, length = int(frame[place]), count
        place += 1
        if coding in (2, 3):
            length = int(frame[place : place + 4].view("<u4")[0])
            place += 4
        parts.append((coding, 1 if coding == 1 else length))
    values = np.empty((count, width), np.uint8)
    for index, (coding, length) in enumerate(parts):
        data, place = frame[place : place + length], place + length
        if coding == 2:
            content = zstandard.ZstdDecompressor().decompress(data.tobytes(), max_output_size=count)
            data = np.frombuffer(content, np.uint8)
        values[:, index] = ans(data, count, 64) if coding == 3 else data
    return values.ravel().view(DTYPES[dtype])


def ans(frame: np.ndarray, count: int, columns: int) -> np.ndarray:
    row_classes, column_classes, size = int(frame[0]), int(frame[1]), int(frame[2:4].view("<u2")[0])
    place, columns = 4, max(columns, 1)
    tables = []
    for number, entries in [
        (1, row_classes),
        (1, column_classes),
        (row_classes * column_classes, size),
    ]:
        if (number, entries) == (1, 1):
            tables.append(None)
            continue
        there = np.unpackbits(frame[place:])[: number * entries].astype(bool)
        place += -(-number * entries // 8)
        weights = np.zeros(number * entries, np.int64)
        coded = frame[place : place + there.sum()].astype(np.int64)
        weights[there] = (16 + coded % 16) << (coded // 16)
        place += int(there.sum())
        tables.append(weights.reshape(number, entries))
    words = frame[place:].copy().view("<u4").tolist()
    state = 0
    while words and state < 2**32:
        state = state * 2**32 + words.pop()

    def pop(weights: np.ndarray, number: int) -> np.ndarray:
        nonlocal state
        left = starts(weights)
        found = np.empty(number, np.int64)
        for index in range(number):
            part = state % 2**24
            symbol = int(np.searchsorted(left, part, side="right")) - 1
            found[index] = symbol
            state = state // 2**24 * (left[symbol + 1] - left[symbol]) + part - left[symbol]
            if state < 2**32 and words:
                state = state * 2**32 + words.pop()
        return found

    lengths = -(-count // columns), columns
    maps = [
        np.zeros(length, np.int64) if table is None else pop(table[0], length)
        for table, length in zip(tables[:2], lengths, strict=True)
    ]
    pairs = (maps[0][:, None] * column_classes + maps[1]).ravel()[:count]
    values = np.empty(count, np.int64)
    for pair in range(row_classes * column_classes):
        values[pairs == pair] = pop(tables[2][pair], int((pairs == pair).sum()))
    assert state == 0
    assert not words
    return values


def starts(weights: np.ndarray) -> list[int]:
    shares = (weights / max(weights.sum(), 1)).astype(np.float32)
    before = [np.float32(0)]
    for share in shares:
        before.append(before[-1] + share)
    factor = np.float32(2**24 - len(shares)) / max(before[-1], np.float32(1e-30))
    return [int(b * factor) + s for s, b in enumerate(before[:-1])] + [2**24]
