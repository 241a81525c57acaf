"""Where the bytes of an artifact went: every one of both files, by tensor."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from mmcompress.artifact.load import dense_places, open_tensors
from mmcompress.backbones.base import Backbone
from mmcompress.format.bundles import Place, bundle_names, bundle_sizes
from mmcompress.format.chain import INTEGERS, Chain
from mmcompress.format.manifest import MANIFEST_FILE, TENSORS_FILE, Manifest
from mmcompress.format.table import Weight, read_table


@dataclass(frozen=True)
class LedgerRow:
    """One payload.

    Attributes:
        tensor: key in the model's state dict; the file's name for `header` and `manifest`.
        modality: tower it belongs to, `shared` when to none.
        role: what the weight does, `other` for what is no compressible weight.
        payload: `codes`, `scale`, `zero_point`, `codebook`, `indices`, `mask`, `dense`, `header`
            or `manifest`.
        bytes: as stored.
        note: how it is encoded, or why it was left dense; `frame share` where the bytes are the
            tensor's share of frames for all of its dtype, in proportion to its values.
        how: the part of the note that weights of one treatment share: steps and bits; `dense`;
            empty for `header` and `manifest`.
        parameters: values of the tensor, on the first of its rows; 0 on the others.
    """

    tensor: str
    modality: str
    role: str
    payload: str
    bytes: int
    note: str
    how: str = ""
    parameters: int = 0


@dataclass(frozen=True)
class Share:
    """What tensors of one treatment add up to.

    Attributes:
        tensors: how many.
        parameters: values in them.
        bytes: as stored.
    """

    tensors: int
    parameters: int
    bytes: int


def list_rows(folder: Path, manifest: Manifest, backbone: Backbone) -> list[LedgerRow]:
    """All rows; their bytes add up to the size of the two files.

    Args:
        folder: of the artifact.
        manifest: its manifest.
        backbone: the model in it, on any device.
    """
    state = backbone.model.state_dict()
    weights = read_table(manifest["kinds"], manifest["weights"])
    places = dense_places(manifest, state)
    dense_bytes = _dense_bytes(folder, places)
    targets = {target.name: target for target in backbone.targets()}
    reasons = {key: reason for reason, keys in manifest["reasons"].items() for key in keys}
    rows = []
    for key, tensor in state.items():
        target = targets.get(key)
        modality = target.modality if target else backbone.modality_of(key)
        role = target.role if target else "other"
        if key in weights and not weights[key].steps:
            size = sum(part.length for part in weights[key].parts.values())
            note = "float32, as float16 cannot hold its values"
            rows.append(
                LedgerRow(key, modality, role, "dense", size, note, "dense", tensor.numel())
            )
        elif key in weights:
            rows += _weight_rows(key, modality, role, weights[key], tensor.shape)
        elif key in places:
            note = reasons.get(key) or _dense_note(key, manifest, is_target=target is not None)
            size, compressed = dense_bytes[key]
            if compressed:
                note += "; frame share"
            rows.append(
                LedgerRow(key, modality, role, "dense", size, note, "dense", tensor.numel())
            )
    file = folder / TENSORS_FILE
    with file.open("rb") as opened:
        header = 8 + int.from_bytes(opened.read(8), "little")
    rows.append(LedgerRow(TENSORS_FILE, "shared", "other", "header", header, "names and shapes"))
    size = (folder / MANIFEST_FILE).stat().st_size
    rows.append(LedgerRow(MANIFEST_FILE, "shared", "other", "manifest", size, "how to read it"))
    total = file.stat().st_size + size
    assert sum(row.bytes for row in rows) == total, "the ledger does not add up"
    return rows


def summarise(rows: Iterable[LedgerRow]) -> dict[tuple[str, str, str], int]:
    """Bytes by (modality, role, payload), in order of first appearance."""
    total: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        total[row.modality, row.role, row.payload] += row.bytes
    return dict(total)


def summarise_treatments(rows: Iterable[LedgerRow]) -> dict[tuple[str, str, str], Share]:
    """Who paid what, by (modality, role, how), in order of first appearance."""
    groups: dict[tuple[str, str, str], list[LedgerRow]] = {}
    for row in rows:
        groups.setdefault((row.modality, row.role, row.how), []).append(row)
    return {
        place: Share(
            len({row.tensor for row in group}),
            sum(row.parameters for row in group),
            sum(row.bytes for row in group),
        )
        for place, group in groups.items()
    }


def compact(rows: Iterable[LedgerRow]) -> list[dict[str, Any]]:
    """The ledger for a run record: rows alike in all but their tensor are one.

    Returns:
        JSON: modality, role, payload, how, why (of tensors left dense, the reason), tensors,
        parameters, bytes; the bytes still add up to the files.
    """
    groups: dict[tuple[str, ...], list[LedgerRow]] = {}
    for row in rows:
        why = row.note.removesuffix("; frame share") if row.payload == "dense" else ""
        groups.setdefault((row.modality, row.role, row.payload, row.how, why), []).append(row)
    return [
        dict(zip(("modality", "role", "payload", "how", "why"), place, strict=True))
        | {
            "tensors": len(group),
            "parameters": sum(row.parameters for row in group),
            "bytes": sum(row.bytes for row in group),
        }
        for place, group in sorted(groups.items())
    ]


def summarise_size(rows: Iterable[LedgerRow], manifest: Manifest) -> dict[str, Any]:
    """The numbers of a run record, `size` in it.

    Returns:
        dense_bytes, artifact_bytes, compression_ratio (dense / stored), bits_per_weight (stored
        bits / dense parameters), dense_dtype (of the dense model that dense_bytes measures) and
        by_modality (stored bytes; they add up to artifact_bytes).
    """
    by_modality: Counter[str] = Counter()
    for row in rows:
        by_modality[row.modality] += row.bytes
    stored, dense = by_modality.total(), manifest["dense"]
    return {
        "dense_bytes": dense["bytes"],
        "artifact_bytes": stored,
        "compression_ratio": dense["bytes"] / stored,
        "bits_per_weight": 8 * stored / dense["parameters"],
        "dense_dtype": dense["dtype"],
        "by_modality": dict(sorted(by_modality.items())),
    }


def split_bytes(total: int, sizes: Sequence[int]) -> list[int]:
    """Whole shares of `total` in proportion to `sizes`, by the largest-remainder method.

    Example:
        >>> split_bytes(10, [1, 1, 2, 0])
        [3, 2, 5, 0]
    """
    whole = sum(sizes)
    shares = [total * size // whole for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: -(total * sizes[i] % whole))
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares


def describe(chain: Chain, shape: Sequence[int]) -> str:
    """What a chain makes of a weight, in the words of its settings.

    Example:
        >>> describe([{"codec": "quantise", "bits": 4, "group_size": 32}], (8, 64))
        '4 bits, groups of 32'
    """
    words = []
    for stage in chain:
        match stage["codec"]:
            case "quantise":
                words.append(f"{stage['bits']} bit{'s' if stage['bits'] > 1 else ''}")
            case "float8":
                words.append("8-bit floats")
            case "codebook":
                block = stage["block_size"]
                words.append(f"{stage['entries']} entries")
                words += [f"blocks of {block}"] if block > 1 else []
            case "bitmask":
                words.append("masked")
        if "group_size" in stage:
            size = stage["group_size"]
            words.append("per row" if size == prod(shape[1:]) else f"groups of {size}")
    floats = not any(stage["codec"] in INTEGERS for stage in chain)
    return ", ".join([*["floats"] * floats, *words])


def _dense_bytes(folder: Path, places: Mapping[str, Place]) -> dict[str, tuple[int, bool]]:
    """Key of a dense tensor → its bytes, and whether they are a share of a frame."""
    found: dict[str, tuple[int, bool]] = {}
    with open_tensors(folder) as tensors:
        present = set(tensors.keys())
        for dtype in bundle_sizes(places.values()):
            compressed = bundle_names(dtype)[1]
            keys = [key for key, place in places.items() if place.dtype == dtype]
            sizes = [places[key].shape.numel() * dtype.itemsize for key in keys]
            if compressed in present:
                sizes = split_bytes(tensors.get_slice(compressed).get_shape()[0], sizes)
            found |= {k: (s, compressed in present) for k, s in zip(keys, sizes, strict=True)}
    # Bundles without values are not stored.
    return {key: found.get(key, (0, False)) for key in places}


def _weight_rows(
    key: str, modality: str, role: str, weight: Weight, shape: Sequence[int]
) -> list[LedgerRow]:
    how = f"{', '.join(weight.steps)}: {describe(weight.chain, shape)}"
    codecs = [stage["codec"] for stage in weight.chain]
    note = f"{how}; {' → '.join(codecs) or 'as they are'}"
    kept = [stage["kept"] for stage in weight.chain if stage["codec"] == "bitmask"]
    note += "".join(f", {count:,} kept" for count in kept)
    note += "".join(
        f", {name} of {part.owner}" for name, part in weight.parts.items() if part.owner != key
    )
    # A shared codebook counts for the weight that has it.
    own = {name: part.length for name, part in weight.parts.items() if part.owner == key}
    return [
        LedgerRow(key, modality, role, name, size, note, how, 0 if i else prod(shape))
        for i, (name, size) in enumerate(own.items())
    ]


def _dense_note(key: str, manifest: Manifest, *, is_target: bool) -> str:
    if not is_target:
        return "not a compressible weight"
    for edit in reversed(manifest["structure"]):
        if any(key.startswith(f"{module}.") for module in edit["modules"]):
            return f"{edit['step']}: stored as floats, no later step selected it"
    return "no step selected it"
