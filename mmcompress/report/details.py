"""One run from close: its ledger, and what each of its layers would have lost."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import log10
from pathlib import Path

from mmcompress.records.folder import ARTIFACT
from mmcompress.records.read import typed
from mmcompress.records.schema import BudgetReport, Group, Record, Row
from mmcompress.report.formats import ABSENT, markdown_code, markdown_lines, markdown_text
from mmcompress.report.pictures import size_marks
from mmcompress.report.plot import best_of
from mmcompress.report.sections import Section

MOST_SHOWN = 6
"""Runs of the front that a report shows from close when nobody names any."""


@dataclass(frozen=True)
class Place:
    """A line of the ledger.

    Attributes:
        words: where and what: three, as `titles` of the ledger's table say.
        bytes: stored.
        share: of the artifact, in [0, 1].
        bits: per parameter; None where there are no parameters.
    """

    words: tuple[str, str, str]
    bytes: int
    share: float
    bits: float | None = None


@dataclass(frozen=True)
class Layer:
    """A line of the sensitivity table.

    Attributes:
        chosen: index of the choice that the budget made.
        bytes, losses: of each choice.
        shades: where each loss lies between the run's least and greatest, in their logarithms.
    """

    name: str
    modality: str
    chosen: int
    bytes: Sequence[int]
    losses: Sequence[float]
    shades: Sequence[float]


@dataclass(frozen=True)
class Details:
    """What a report says of one run beside its numbers.

    Attributes:
        name: of the recipe.
        record: of the run.
        payloads: bytes by tower × role × payload; empty where neither record nor artifact tells.
        treatments: bytes by tower × role × how they are stored.
        left_dense: tower × role × why.
        parts: bytes by tower × part of the model × how they are stored; empty in older records.
        choices, layers: of the byte budget; empty without one.
    """

    name: str
    record: Record
    payloads: Sequence[Place] = ()
    treatments: Sequence[Place] = ()
    left_dense: Sequence[Place] = ()
    parts: Sequence[Place] = ()
    choices: Sequence[str] = ()
    layers: Sequence[Layer] = field(default_factory=tuple)

    @property
    def folder(self) -> str:
        return str(self.record.folder)


def details_of(name: str, record: Record) -> Details:
    """Of one run.

    Args:
        name: what tables call it.
        record: of the run; its `ledger` may be missing.
    """
    ledger = record.ledger or []
    budget = record.budget or BudgetReport([], [])
    return Details(
        name=name,
        record=record,
        payloads=_places(ledger, "payload"),
        treatments=_places([row for row in ledger if row.how], "how"),
        left_dense=_places([row for row in ledger if row.why], "why"),
        parts=_places([row for row in ledger if row.how and row.part], "how", by="part"),
        choices=budget.choices,
        layers=_layers(budget.groups),
    )


def with_ledger(record: Record) -> Record:
    """The record, with the ledger of its artifact where that is still there.

    Runs of earlier versions have no ledger in their record. Reading an artifact builds its model
    without weights, which takes seconds.

    Raises:
        ValueError: the artifact cannot be read.
    """
    folder = record.folder / ARTIFACT
    if record.ledger or not folder.is_dir():
        return record
    from mmcompress.artifact.folder import Artifact
    from mmcompress.artifact.ledger import compact

    return replace(record, ledger=typed(list[Row], compact(Artifact.read(folder).ledger())))


def chosen_runs(sections: Sequence[Section], named: Sequence[Path]) -> list[Details]:
    """The runs that a report shows from close.

    Args:
        sections: of the report.
        named: run folders; the front of accuracy and bytes when empty, smallest first, and a run
            with a byte budget where none on the front has one.
    Raises:
        ValueError: a named folder is not among the finished runs.
    """
    runs = [
        (summary.name, record)
        for section in sections
        for summary in section.summaries
        for record in summary.records
    ]
    if named:
        by_folder = {record.folder.resolve(): (name, record) for name, record in runs}
        missing = [str(path) for path in named if path.resolve() not in by_folder]
        if missing:
            raise ValueError(
                f"--run {missing[0]} is not the folder of a finished run below the one given"
            )
        return [
            details_of(name, with_ledger(record))
            for name, record in (by_folder[path.resolve()] for path in named)
        ]
    found = [run for section in sections for run in _front_runs(section)][:MOST_SHOWN]
    if not any(record.budget for _, record in found):
        found += [run for run in runs if run[1].budget][:1]
    return [details_of(name, record) for name, record in found]


def _front_runs(section: Section) -> list[tuple[str, Record]]:
    """The first seed of each recipe that no other beats, the smallest artifact first."""
    marks, _ = size_marks(section.summaries, section.metric)
    keys = list(marks)
    best = [section.summaries[keys[i]] for i in best_of(list(marks.values()), section.metric)]
    return [(summary.name, summary.records[0]) for summary in best if summary.records]


def _places(rows: Sequence[Row], last: str, *, by: str = "role") -> list[Place]:
    """Rows put together by tower, role (or another key) and one more, the most bytes first."""
    total = sum(row.bytes for row in rows)
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.modality, getattr(row, by), getattr(row, last)), []).append(row)
    places = []
    for words, group in groups.items():
        size = sum(row.bytes for row in group)
        parameters = sum(row.parameters for row in group)
        bits = 8 * size / parameters if parameters else None
        places.append(Place(words, size, size / total if total else 0.0, bits))
    return sorted(places, key=lambda place: -place.bytes)


def _layers(groups: Sequence[Group]) -> list[Layer]:
    logs = [[log10(max(loss, 1e-12)) for loss in group.losses] for group in groups]
    # Choice 0 leaves the layer dense: its loss is what floats round.
    inside = [value for row in logs for value in row[1:]]
    low, high = min(inside, default=0.0), max(inside, default=1.0)
    width = (high - low) or 1.0
    return [
        Layer(
            name=group.name,
            modality=group.modality,
            chosen=group.chosen,
            bytes=group.bytes,
            losses=group.losses,
            shades=[min(max((value - low) / width, 0.0), 1.0) for value in row],
        )
        for group, row in zip(groups, logs, strict=True)
    ]


def _places_markdown(kind: str, places: Sequence[Place]) -> str:
    lines: list[Sequence[str]] = [
        ("tower", kind, "how it is stored", "bytes", "bits/weight"),
        ("---", "---", "---", "---:", "---:"),
    ]
    lines += [
        (*p.words, f"{p.bytes:,}", ABSENT if p.bits is None else f"{p.bits:.2f}") for p in places
    ]
    return markdown_lines(lines)


def details_markdown(details: Details) -> str:
    """Ledger by treatment, and what each layer got and lost."""
    parts = [f"### {markdown_text(details.name)}, seed {details.record.seed}\n"]
    parts.append(markdown_code(details.record.command or ABSENT) + "\n")
    for kind, places in (("part", details.parts), ("role", details.treatments)):
        if places:
            parts.append(_places_markdown(kind, places))
    if details.layers:
        lines: list[Sequence[str]] = [
            ("layer", "tower", "what it got", "bytes", "loss"),
            ("---", "---", "---", "---:", "---:"),
        ]
        lines += [
            (
                layer.name,
                layer.modality,
                details.choices[layer.chosen],
                f"{layer.bytes[layer.chosen]:,}",
                f"{layer.losses[layer.chosen]:.2g}",
            )
            for layer in details.layers
        ]
        parts.append(markdown_lines(lines))
    return "\n".join(parts)
