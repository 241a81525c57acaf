"""Published numbers, each with the place where it was read: `papers.yaml`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

FILE = Path(__file__).with_name("papers.yaml")


@dataclass(frozen=True)
class Published:
    """One number of a paper's table.

    Attributes:
        value: as printed: percent, or what `metric` says.
        source: where it was read.
        secondhand: quoted by a third party.
        size: what the source says of the model's size, in its own convention; empty when nothing.
    """

    value: float
    source: str
    secondhand: bool
    size: str


def read_papers(path: Path = FILE) -> list[dict[str, Any]]:
    """All entries, in the order of the file."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(path.read_bytes(), loader)


def find(papers: Sequence[Mapping[str, Any]], wanted: Mapping[str, Any]) -> Published:
    """The one entry that has all of these values.

    Args:
        papers: of `read_papers`.
        wanted: key → value: paper, table, backbone, dataset, metric, method, setting.
    Raises:
        ValueError: no entry has them, or several do.
    """
    found = [e for e in papers if all(e.get(key) == value for key, value in wanted.items())]
    if len(found) != 1:
        asked = ", ".join(f"{key}={value!r}" for key, value in wanted.items())
        raise ValueError(
            f"{len(found)} published numbers have {asked}: name keys that single out one entry of "
            f"{FILE.name}"
        )
    (entry,) = found
    inside = "" if entry["table"] in entry["source"] else f", {entry['table']}"
    return Published(
        value=float(entry["value"]),
        source=f"{entry['source']}{inside}",
        secondhand=bool(entry.get("secondhand")),
        size=_size(entry),
    )


def _size(entry: Mapping[str, Any]) -> str:
    """Example:

    >>> _size({"image_params_m": 61, "text_params_m": 29, "gmacs": 5.3})
    '61 + 29 M, 5.3 GMACs'
    """
    words = []
    if "params_m" in entry:
        words.append(f"{entry['params_m']:g} M")
    elif "image_params_m" in entry:
        words.append(f"{entry['image_params_m']:g} + {entry['text_params_m']:g} M")
    for key, unit in (("gflops", "GFLOPs"), ("gmacs", "GMACs"), ("size_mb", "MB")):
        if key in entry:
            words.append(f"{entry[key]:g} {unit}")
    if "ratio" in entry:
        words.append(f"{entry['ratio']:g}×")
    return ", ".join(words)
