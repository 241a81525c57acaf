"""Where the bytes of an artifact went: every one of both files, by tensor."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcompress.format.bundles import bundle_names
from mmcompress.format.dtypes import DTYPES
from mmcompress.format.manifest import MANIFEST_FILE, Manifest, files_of
from mmcompress.format.names import Entry
from mmcompress.format.parts import in_order, usual_part
from mmcompress.format.reader import Reader


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
        part: of the model; the usual one of tower and role when empty.
    """

    tensor: str
    modality: str
    role: str
    payload: str
    bytes: int
    note: str
    how: str = ""
    parameters: int = 0
    part: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "part", self.part or usual_part(self.modality, self.role))


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


def list_rows(folder: Path, manifest: Manifest) -> list[LedgerRow]:
    """All rows; their bytes add up to the size of the files.

    Args:
        folder: of the artifact.
        manifest: its manifest.
    Raises:
        ArtifactError: the tensors are not what it says.
    """
    rows = []
    with Reader(folder, manifest) as reader:
        dense_bytes = _dense_bytes(reader)
        for key, entry in reader.entries.items():
            if entry.row is None:
                rows.append(_dense_row(entry, manifest, *dense_bytes[key]))
            else:
                rows += _weight_rows(entry, reader)
        tensors = [sum(sizes.values()) for sizes in reader.sizes()]
    for name, file, held in zip(files_of(manifest), manifest["files"], tensors, strict=True):
        header = file["bytes"] - held
        rows.append(LedgerRow(name, "shared", "other", "header", header, "names and shapes"))
    size = (folder / MANIFEST_FILE).stat().st_size
    rows.append(LedgerRow(MANIFEST_FILE, "shared", "other", "manifest", size, "how to read it"))
    total = sum((folder / name).stat().st_size for name in (*files_of(manifest), MANIFEST_FILE))
    assert sum(row.bytes for row in rows) == total, "the ledger does not add up"
    return rows


def summarize(rows: Iterable[LedgerRow]) -> dict[tuple[str, str, str], int]:
    """Bytes by (modality, role, payload), in order of first appearance."""
    total: Counter[tuple[str, str, str]] = Counter()
    for row in rows:
        total[row.modality, row.role, row.payload] += row.bytes
    return dict(total)


def summarize_treatments(rows: Iterable[LedgerRow]) -> dict[tuple[str, str, str], Share]:
    """Who paid what, by (modality, role, how), in order of first appearance."""
    groups: dict[tuple[str, str, str], list[LedgerRow]] = {}
    for row in rows:
        groups.setdefault((row.modality, row.role, row.how), []).append(row)
    return {place: _share(group) for place, group in groups.items()}


def summarize_parts(rows: Iterable[LedgerRow]) -> dict[tuple[str, str], Share]:
    """Who paid what, by (part, how), the parts in the order of `format.parts.PARTS`."""
    groups: dict[tuple[str, str], list[LedgerRow]] = {}
    for row in rows:
        groups.setdefault((row.part, row.how), []).append(row)
    places = sorted(groups, key=lambda place: (in_order(place[0]), place[1]))
    return {place: _share(groups[place]) for place in places}


def _share(group: Sequence[LedgerRow]) -> Share:
    return Share(
        len({row.tensor for row in group}),
        sum(row.parameters for row in group),
        sum(row.bytes for row in group),
    )


def compact(rows: Iterable[LedgerRow]) -> list[dict[str, Any]]:
    """The ledger for a run record: rows alike in all but their tensor are one.

    Returns:
        JSON: modality, role, payload, how, why (of tensors left dense, the reason), part, tensors,
        parameters, bytes; the bytes still add up to the files.
    """
    groups: dict[tuple[str, ...], list[LedgerRow]] = {}
    for row in rows:
        why = row.note.removesuffix("; frame share") if row.payload == "dense" else ""
        place = row.modality, row.role, row.payload, row.how, why, row.part
        groups.setdefault(place, []).append(row)
    return [
        dict(zip(("modality", "role", "payload", "how", "why", "part"), place, strict=True))
        | {
            "tensors": len(group),
            "parameters": sum(row.parameters for row in group),
            "bytes": sum(row.bytes for row in group),
        }
        for place, group in sorted(groups.items())
    ]


def summarize_size(rows: Iterable[LedgerRow], manifest: Manifest) -> dict[str, Any]:
    """The numbers of a run record, `size` in it.

    Returns:
        dense_bytes, artifact_bytes, compression_ratio (dense / stored), bits_per_weight (stored
        bits / dense parameters), dense_dtype (of the dense model that dense_bytes measures),
        by_modality and by_part (stored bytes; they add up to artifact_bytes).
    """
    by_modality: Counter[str] = Counter()
    by_part: Counter[str] = Counter()
    for row in rows:
        by_modality[row.modality] += row.bytes
        by_part[row.part] += row.bytes
    stored, dense = by_modality.total(), manifest["dense"]
    return {
        "dense_bytes": dense["bytes"],
        "artifact_bytes": stored,
        "compression_ratio": dense["bytes"] / stored,
        "bits_per_weight": 8 * stored / dense["parameters"],
        "dense_dtype": dense["dtype"],
        "by_modality": dict(sorted(by_modality.items())),
        "by_part": {part: by_part[part] for part in sorted(by_part, key=in_order)},
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


def _dense_bytes(reader: Reader) -> dict[str, tuple[int, bool]]:
    """Name of a dense tensor → its bytes, and whether they are a share of a frame."""
    found: dict[str, tuple[int, bool]] = {}
    bundles: dict[tuple[int, str], list[str]] = {}
    for name, place in reader.places.items():
        bundles.setdefault((place.file, place.dtype), []).append(name)
    for (file, dtype), names in bundles.items():
        stored, compressed = reader.sizes()[file], bundle_names(dtype)[1]
        sizes = [reader.entries[name].count * DTYPES[dtype].itemsize for name in names]
        if compressed in stored:
            sizes = split_bytes(stored[compressed], sizes)
        found |= {n: (s, compressed in stored) for n, s in zip(names, sizes, strict=True)}
    return found


def _dense_row(entry: Entry, manifest: Manifest, size: int, shared: bool) -> LedgerRow:
    note = entry.why or _dense_note(entry, manifest)
    note += "; frame share" if shared else ""
    return _floats_row(entry, size, note)


def _floats_row(entry: Entry, size: int, note: str) -> LedgerRow:
    """Of a tensor that no codes are stored of."""
    return LedgerRow(
        entry.name,
        entry.modality,
        entry.role or "other",
        "dense",
        size,
        note,
        "dense",
        entry.count,
        entry.part,
    )


def _weight_rows(entry: Entry, reader: Reader) -> list[LedgerRow]:
    weight, chain = reader.weights[entry.name], reader.chain(entry.name)
    role = entry.role or "other"
    if not weight.steps:
        size = sum(part.length for part in weight.parts.values())
        return [_floats_row(entry, size, "float32, as float16 cannot hold its values")]
    how = f"{', '.join(weight.steps)}: {chain.describe()}"
    note = f"{how}; {' → '.join(chain.names) or 'as they are'}"
    kept = [stage["kept"] for stage in weight.stages if stage["codec"] == "bitmask"]
    note += "".join(f", {count:,} kept" for count in kept)
    note += "".join(
        f", {name} of {part.owner}"
        for name, part in weight.parts.items()
        if part.owner != entry.name
    )
    # A shared codebook counts for the weight that has it.
    own = {name: part.length for name, part in weight.parts.items() if part.owner == entry.name}
    place = entry.name, entry.modality, role
    return [
        LedgerRow(*place, name, size, note, how, 0 if i else entry.count, entry.part)
        for i, (name, size) in enumerate(own.items())
    ]


def _dense_note(entry: Entry, manifest: Manifest) -> str:
    if not entry.role:
        return "not a compressible weight"
    for edit in reversed(manifest["structure"]):
        if any(entry.name.startswith(f"{module}.") for module in edit["modules"]):
            return f"{edit['step']}: stored as floats, no later step selected it"
    return "no step selected it"
