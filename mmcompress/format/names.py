"""The tensors of a model in few bytes of a manifest: name, shape, dtype, tower, role, how stored.

`forms` holds what tensors have in common:

    {"shape": [64, 32], "modality": "text", "role": "mlp.up"}    also "dtype" (float32 without it),
                                                                 "why" it was left dense, and "part"
                                                                 where it is not the usual one

`tensors` is a tree of the parts of their names. `*` stands for the first part that is a number; a
leaf lists forms, each followed by its rows:

    {"layers": {"*": {"fc1": {"bias": [0, "0-1"], "weight": [1, {"0": [0, 256], "1": [0, 249]}]}}}}

A dense tensor has no row, so that its numbers stand in a string, `"0-1,3"`; the string is empty
where a name has no `*`, and so is the key of its row.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from mmcompress.format.dtypes import DTYPES
from mmcompress.format.parts import usual_part

ANY = "*"

NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
NUMBERS = re.compile(rf"({NUMBER.pattern})(?:-({NUMBER.pattern}))?")

WORDS = ("dtype", "modality", "role", "why", "part")
"""What a form says beside the shape."""

Row = list[Any]
"""How an encoded weight is stored: index of its kind, then what `table.py` says."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the model.

    Attributes:
        name: its key in the state dict.
        shape: of the tensor.
        dtype: name of its dtype in the model.
        modality: tower it belongs to, `shared` when to none.
        role: what a compressible weight does; empty for any other tensor.
        why: the reason for which a compressible weight was left dense, where there is one.
        row: how it is stored when it is encoded; None when it is dense.
        part: of the model; the usual one of tower and role when empty.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    modality: str = "shared"
    role: str = ""
    why: str = ""
    row: Row | None = None
    part: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "part", self.part or usual_part(self.modality, self.role))

    @property
    def count(self) -> int:
        """How many values it has."""
        return prod(self.shape)


def to_tree(entries: Iterable[Entry]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """`forms` and `tensors` of a manifest.

    Raises:
        ValueError: a name could not be read back.
    """
    forms: list[dict[str, Any]] = []
    tree: dict[str, Any] = {}
    for entry in sorted(entries, key=lambda entry: entry.name):
        form = _form_of(entry)
        if form not in forms:
            forms.append(form)
        *path, last, number = _split(entry.name)
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node.setdefault(last, {}).setdefault(forms.index(form), {})[number] = entry.row
    return forms, _finish(tree)


def from_tree(forms: Any, tree: Any, most: int) -> dict[str, Entry]:
    """All tensors by name, in the order of their names.

    Args:
        forms, tree: as a manifest holds them, unchecked.
        most: how many there may be.
    Raises:
        ValueError: a form or a leaf is malformed, a name stands twice, or there are too many.
    """
    for position, form in enumerate(forms):
        if not _is_form(form):
            raise ValueError(f"forms[{position}] is not shape, {', '.join(WORDS)}")
    found: dict[str, Entry] = {}
    for path, leaf in _leaves(tree):
        for form, rows in _pairs(path, leaf, forms):
            for number, row in _expand(rows, path, most - len(found)):
                name = ".".join(path).replace(ANY, number, 1) if number else ".".join(path)
                if name in found:
                    raise ValueError(f"tensors names {name} twice")
                shape = tuple(form["shape"])
                rest = {key: form[key] for key in WORDS if key in form}
                found[name] = Entry(name, shape, **rest, row=row)
    return dict(sorted(found.items()))


def _form_of(entry: Entry) -> dict[str, Any]:
    form: dict[str, Any] = {"shape": list(entry.shape), "modality": entry.modality}
    form |= {"dtype": entry.dtype} if entry.dtype != "float32" else {}
    form |= {"role": entry.role} if entry.role else {}
    usual = usual_part(entry.modality, entry.role)
    form |= {"part": entry.part} if entry.part != usual else {}
    return form | ({"why": entry.why} if entry.why else {})


def _split(name: str) -> tuple[str, ...]:
    """The parts of a name, its first number as `*`, and that number; empty where there is none."""
    parts = name.split(".")
    if ANY in parts or "" in parts:
        raise ValueError(f"the tensor {name!r} has no place in a manifest: rename its module")
    for place, part in enumerate(parts):
        if NUMBER.fullmatch(part):
            return *parts[:place], ANY, *parts[place + 1 :], part
    return *parts, ""


def _finish(node: dict[Any, Any]) -> Any:
    """The tree with leaves as lists: those that are keyed by the number of a form."""
    if not all(isinstance(key, int) for key in node):
        return {key: _finish(child) for key, child in node.items()}
    leaf: list[Any] = []
    for form, rows in node.items():
        dense = [number for number, row in rows.items() if row is None]
        encoded = {number: row for number, row in rows.items() if row is not None}
        leaf += [form, _join(dense)] if dense else []
        leaf += [form, encoded] if encoded else []
    return leaf


def _join(numbers: Sequence[str]) -> str:
    """Numbers with those that follow one another as ranges; `""` for the one that is none."""
    if "" in numbers:
        return ""
    runs: list[list[int]] = []
    for number in sorted(map(int, numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)


def _leaves(tree: Any) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Path and content of every leaf. No recursion."""
    waiting: list[tuple[tuple[str, ...], Any]] = [((), tree)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, dict):
            waiting += [((*path, key), child) for key, child in node.items()]
        elif isinstance(node, list) and path:
            yield path, node
        else:
            raise ValueError(f"tensors has {type(node).__name__} at {'.'.join(path)}")


def _pairs(
    path: tuple[str, ...], leaf: list[Any], forms: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """Form and rows of a leaf."""
    if len(leaf) % 2 or not leaf:
        raise ValueError(f"tensors gives {'.'.join(path)} no form and rows")
    for index, rows in zip(leaf[::2], leaf[1::2], strict=True):
        if type(index) is not int or not 0 <= index < len(forms):
            raise ValueError(f"tensors gives {'.'.join(path)} no form that is there")
        yield forms[index], rows


def _expand(rows: Any, path: tuple[str, ...], most: int) -> Iterator[tuple[str, Row | None]]:
    """Number and row of each tensor of one form, once it is known how many they are."""
    numbered = path.count(ANY)
    if isinstance(rows, dict):
        keys, spans = list(rows), [(key, "") for key in rows]
    elif isinstance(rows, str):
        keys = rows.split(",")
        spans = []
        for key in keys:
            match = NUMBERS.fullmatch(key)
            spans.append((match[1], match[2] or "") if match else (key, ""))
    else:
        raise ValueError(f"tensors gives {'.'.join(path)} no rows")
    if numbered > 1 or any(bool(NUMBER.fullmatch(low)) != bool(numbered) for low, _ in spans):
        raise ValueError(f"tensors gives {'.'.join(path)} numbers that make no names")
    if not numbered and keys != [""]:
        raise ValueError(f"tensors gives {'.'.join(path)} numbers that make no names")
    total = sum(max(int(high or low) - int(low) + 1, 0) if low else 1 for low, high in spans)
    if total > most:
        raise ValueError(f"tensors names {total:,} tensors and more, too many for these files")
    for key, (low, high) in zip(keys, spans, strict=True):
        row = rows[key] if isinstance(rows, dict) else None
        if isinstance(rows, dict) and not isinstance(row, list):
            raise ValueError(f"tensors gives {'.'.join(path)} no list as a row")
        if not low:
            yield "", row
        for number in range(int(low), int(high or low) + 1) if low else []:
            yield str(number), row


def _is_form(form: Any) -> bool:
    return (
        isinstance(form, dict)
        and {"shape", "modality"} <= form.keys() <= {"shape", *WORDS}
        and isinstance(form["shape"], list)
        and len(form["shape"]) <= 64
        and all(type(size) is int and 0 <= size < 2**63 for size in form["shape"])
        and all(isinstance(form[key], str) for key in form.keys() - {"shape"})
        and form.get("dtype", "float32") in DTYPES
    )
