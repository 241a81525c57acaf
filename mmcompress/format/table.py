"""The table of encoded weights in a manifest: how each is stored, where its payloads lie.

What weights have in common stands once, in `kinds`:

    {"steps": ["int4"], "chain": [{"codec": "quantize", …}, …], "payloads": {"codes": "uint8", …}}

A weight's row is `[index of its kind, bytes of payload 1, bytes of payload 2, …]`, payloads in the
order of their names, then how many codes its mask keeps if its chain has a bitmask. In place of
the bytes of a codebook, a row may name an earlier weight whose codebook it shares. All payloads of
a file lie one after the other, weights in the order of their keys; so no row can reach into
another's.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from mmcompress.format.chain import Stages
from mmcompress.format.codecs.base import FLOATS
from mmcompress.format.names import Entry, Row

STORED = ("uint8", *FLOATS)
"""Dtypes of payloads."""

KIND_FIELDS: dict[str, type] = {"steps": list, "chain": list, "payloads": dict}


@dataclass(frozen=True)
class Part:
    """One payload.

    Attributes:
        dtype: name of the dtype that is stored.
        file: which of the files it lies in, from 0.
        start: where it begins in the tensor of all payloads of that file, in bytes.
        length: in bytes.
        owner: key of the weight it was stored for; that of another where a codebook is shared.
    """

    dtype: str
    file: int
    start: int
    length: int
    owner: str


@dataclass(frozen=True)
class Weight:
    """One encoded weight.

    Attributes:
        steps: that touched it.
        stages: of the chain by which it is stored.
        parts: its payloads by name.
    """

    steps: list[str]
    stages: Stages
    parts: dict[str, Part]


def add_row(
    kinds: list[dict[str, Any]],
    steps: Sequence[str],
    stages: Stages,
    payloads: Mapping[str, np.ndarray],
    shared_with: str | None,
) -> Row:
    """The row of one weight.

    Args:
        kinds: the weight's own is appended where it is new.
        steps: that touched it.
        stages: of the chain by which it is stored.
        payloads: as they are stored.
        shared_with: the weight whose codebook it takes.
    """
    kept = [stage["kept"] for stage in stages if stage["codec"] == "bitmask"]
    common = [{k: v for k, v in stage.items() if k != "kept"} for stage in stages]
    dtypes = {name: t.dtype.name for name, t in payloads.items()}
    kind = {"steps": list(steps), "chain": common, "payloads": dtypes}
    if kind not in kinds:
        kinds.append(kind)
    sizes: dict[str, Any] = {name: payloads[name].nbytes for name in sorted(payloads)}
    if shared_with is not None:
        sizes["codebook"] = shared_with
    return [kinds.index(kind), *sizes.values(), *kept]


def read_table(
    kinds: Sequence[Any], entries: Mapping[str, Entry], tensors_by_file: Sequence[int]
) -> dict[str, Weight]:
    """All encoded weights, in the order in which their payloads lie.

    Args:
        kinds: as the manifest holds them, unchecked.
        entries: all tensors by name, in the order of their names.
        tensors_by_file: how many of these, in turn, each file holds.
    Raises:
        ValueError: a kind or a row is malformed, or shares what is not there.
    """
    for position, kind in enumerate(kinds):
        if not _is_kind(kind):
            raise ValueError(f"kinds[{position}] is not steps, chain and payloads")
    weights: dict[str, Weight] = {}
    for file, names in enumerate(split_by_file(entries, tensors_by_file)):
        start = 0
        for key in names:
            if entries[key].row is not None:
                weights[key] = _read_row(entries[key], kinds, weights, file, start)
                start += sum(p.length for p in weights[key].parts.values() if p.owner == key)
    return weights


def split_by_file(names: Iterable[str], tensors_by_file: Sequence[int]) -> list[list[str]]:
    """The names of the tensors of each file."""
    rest = iter(names)
    return [list(islice(rest, number)) for number in tensors_by_file]


def payload_bytes(weights: Mapping[str, Weight], file: int = 0) -> int:
    """Length of the tensor of all payloads of a file."""
    parts = [(key, part) for key, weight in weights.items() for part in weight.parts.values()]
    return sum(part.length for key, part in parts if part.owner == key and part.file == file)


def _read_row(
    entry: Entry, kinds: Sequence[Any], earlier: Mapping[str, Weight], file: int, start: int
) -> Weight:
    key, row = entry.name, entry.row
    if not row or not _is_index(row[0], len(kinds)):
        raise ValueError(f"tensors gives {key} no kind that is there")
    kind = kinds[row[0]]
    names, masked = sorted(kind["payloads"]), _is_masked(kind["chain"])
    if len(row) != 1 + len(names) + masked:
        raise ValueError(f"tensors gives {key} {len(row)} entries, its kind wants {names}")
    parts: dict[str, Part] = {}
    for name, size in zip(names, row[1:], strict=False):
        dtype = kind["payloads"][name]
        if name == "codebook" and isinstance(size, str):
            parts[name] = _shared_codebook(key, size, dtype, earlier)
            continue
        if not _is_index(size, 2**63):
            raise ValueError(f"tensors gives payload {name} of {key} no number of bytes: {size!r}")
        parts[name] = Part(dtype, file, start, size, key)
        start += size
    chain = kind["chain"]
    if masked:
        chain = [s | {"kept": row[-1]} if s.get("codec") == "bitmask" else s for s in chain]
    return Weight(kind["steps"], chain, parts)


def _shared_codebook(key: str, owner: str, dtype: str, earlier: Mapping[str, Weight]) -> Part:
    # Only an earlier weight with a codebook of its own: references can form no cycle.
    part = earlier[owner].parts.get("codebook") if owner in earlier else None
    if part is None or part.owner != owner or part.dtype != dtype:
        raise ValueError(
            f"tensors lets {key} share the codebook of {owner}, which has none such of its own"
        )
    return part


def _is_kind(kind: Any) -> bool:
    return (
        isinstance(kind, dict)
        and kind.keys() == KIND_FIELDS.keys()
        and all(type(kind[name]) is wanted for name, wanted in KIND_FIELDS.items())
        and all(isinstance(step, str) for step in kind["steps"])
        and all(isinstance(stage, dict) for stage in kind["chain"])
        and all(isinstance(d, str) and d in STORED for d in kind["payloads"].values())
    )


def _is_masked(chain: Stages) -> bool:
    return any(stage.get("codec") == "bitmask" for stage in chain)


def _is_index(value: Any, end: int) -> bool:
    return type(value) is int and 0 <= value < end
