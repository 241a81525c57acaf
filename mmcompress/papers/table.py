"""A paper's table: what its rows run, what its columns measure, what was published for each cell.

`conf/table/*.yaml` describe them; `scripts/reproduce.py` runs what is missing and prints ours
beside theirs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from mmcompress.papers.published import Published, find
from mmcompress.system.locations import project_path

Scale = Literal["smoke", "full"]
SCALES: tuple[Scale, ...] = ("smoke", "full")


@dataclass(frozen=True)
class Column:
    """One metric on one data set.

    Attributes:
        metric: of ours.
        smoke: of ours at scale=smoke, where the packaged data call it otherwise.
        data: the data set at scale=full, a key of `data` in conf/reproduce.yaml.
        published: keys that single out a published number, with those of table and row.
        compare: whether ours minus theirs means anything.
    """

    name: str
    metric: str
    data: str
    published: Mapping[str, Any] = field(default_factory=dict)
    compare: bool = True
    smoke: str | None = None

    def metric_at(self, scale: Scale) -> str:
        """The metric of our records."""
        return self.smoke or self.metric if scale == "smoke" else self.metric


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        overrides: of train.py at both scales, `smoke` and `full` at one.
        published: as in `Column`; a row without has no published number.
        alone: another model, whose change from the dense row means nothing.
    """

    name: str
    overrides: Sequence[str] = ()
    smoke: Sequence[str] = ()
    full: Sequence[str] = ()
    published: Mapping[str, Any] | None = None
    alone: bool = False


@dataclass(frozen=True)
class PaperTable:
    """Content of a file in conf/table.

    Attributes:
        name: of the file.
        published: as in `Column`, of all cells.
        dense: the row that changes are counted from; None where there is none.
        overrides: of all rows at both scales, `smoke` and `full` at one.
        steps: data set → overrides of its runs at scale=full, such as how long to train.
        hardware: what scale=full is meant for.
        conventions: in which the paper counts otherwise than we do, or others do.
    """

    name: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    hardware: str
    conventions: str
    published: Mapping[str, Any] = field(default_factory=dict)
    dense: str | None = None
    overrides: Sequence[str] = ()
    smoke: Sequence[str] = ()
    full: Sequence[str] = ()
    steps: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def overrides_of(self, row: Row, scale: Scale) -> list[str]:
        """What a row's run is told on the command line, data aside."""
        own = [*self.overrides, *getattr(self, scale), *row.overrides, *getattr(row, scale)]
        return _last_choices(own)

    def cells(self, papers: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Published]:
        """(row, column) → what was published.

        Raises:
            ValueError: a cell's keys do not single out one number.
        """
        found = {}
        for row in self.rows:
            if row.published is None:
                continue
            for column in self.columns:
                wanted = {**self.published, **column.published, **row.published}
                try:
                    found[row.name, column.name] = find(papers, wanted)
                except ValueError as error:
                    raise ValueError(f"conf/table/{self.name}.yaml, {row.name}: {error}") from error
        return found


def _last_choices(overrides: Sequence[str]) -> list[str]:
    """Of several choices for one group, which Hydra refuses, the last.

    Example:
        >>> _last_choices(["trainer=gpu", "trainer.max_steps=9", "trainer=ddp"])
        ['trainer=ddp', 'trainer.max_steps=9']
    """
    choices: dict[str, str] = {}
    settings = []
    for override in overrides:
        key, _, _ = override.partition("=")
        if "." in key:
            settings.append(override)
        else:
            choices[key] = override
    return [*choices.values(), *settings]


def table_names() -> list[str]:
    """Of all tables there are."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def load_table(name: str) -> PaperTable:
    """Read conf/table/NAME.yaml.

    Raises:
        ValueError: there is none.
    """
    if name not in table_names():
        raise ValueError(f"table={name} is none of {', '.join(table_names())}, all")
    content = yaml.safe_load((_folder() / f"{name}.yaml").read_text("utf-8"))
    content["columns"] = [Column(**column) for column in content["columns"]]
    content["rows"] = [Row(**row) for row in content["rows"]]
    return PaperTable(name=name, **content)


def _folder() -> Path:
    return project_path("conf") / "table"


@dataclass(frozen=True)
class Job:
    """One run of train.py that cells need.

    Attributes:
        row: for messages.
        data: the data set at scale=full; None at scale=smoke, where all is one.
        overrides: complete, but for the run folder.
    """

    row: str
    data: str | None
    overrides: tuple[str, ...]


def jobs(table: PaperTable, scale: Scale, settings: Mapping[str, Any]) -> Iterator[Job]:
    """All runs of a table.

    Args:
        settings: content of conf/reproduce.yaml, with `paths` filled in at scale=full.
    """
    common = settings["overrides"][scale]
    for row in table.rows:
        own = table.overrides_of(row, scale)
        if scale == "smoke":
            yield Job(row.name, None, tuple(_last_choices([*common, *own])))
            continue
        for data in dict.fromkeys(column.data for column in table.columns):
            place = settings["paths"].get(data)
            lies = [o.format(path=place) for o in settings["data"][data]["overrides"]]
            more = table.steps.get(data, ())
            yield Job(row.name, data, tuple(_last_choices([*common, *lies, *own, *more])))
