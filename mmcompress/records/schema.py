"""What a run record must be before tables and pictures are made from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mmcompress.system.text import printable

DEEPEST = 50
"""How many containers may lie in one another; ours are a dozen."""
LARGEST = 1e100
"""So that sums and squares of numbers are numbers."""

Number = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=10**18)]
Batch = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Scores = dict[str, Number]
Node = dict[str, Any] | None


class Part(BaseModel):
    """Of a record; it may hold more than is named here."""

    model_config = ConfigDict(strict=True, extra="ignore")


class Compression(Part):
    """`steps` by name; None takes one away."""

    steps: dict[str, Node] | None = None


class Config(Part):
    """What names and groups of runs are made from."""

    name: str | None = None
    run_dir: str | None = None
    backbone: Node = None
    data: Node = None
    evaluation: Node = None
    trainer: Node = None
    compression: Compression = Compression()


class Latency(Part):
    """Numbers by batch size."""

    dense_ms: dict[Batch, Positive] | None = None
    compressed_ms: dict[Batch, Positive] | None = None
    dense_pairs_per_s: dict[Batch, Positive] | None = None
    compressed_pairs_per_s: dict[Batch, Positive] | None = None

    @model_validator(mode="after")
    def _same_batches(self) -> Self:
        if not (self.compressed_ms or {}).keys() <= (self.dense_ms or {}).keys():
            raise ValueError("compressed_ms has batch sizes that dense_ms has not")
        return self


class Group(Part):
    """A layer in the report of a byte budget."""

    name: str
    modality: str
    chosen: Count
    bytes: list[Count]
    losses: list[Number]


class BudgetReport(Part):
    """What each layer could have had."""

    choices: list[str]
    groups: list[Group]

    @model_validator(mode="after")
    def _same_lengths(self) -> Self:
        count = len(self.choices)
        for group in self.groups:
            if not (group.chosen < len(group.bytes) == len(group.losses) == count):
                raise ValueError(f"{group.name} has not a number for each of {count} choices")
        return self


class Row(Part):
    """Of the ledger."""

    modality: str
    role: str
    payload: str
    how: str
    why: str
    parameters: Count
    bytes: Count


class CastSize(Part):
    """Of the dense model in float16."""

    bytes: Positive
    compression_ratio: Positive
    bits_per_weight: Positive


class Cast(Part):
    """Scores and sizes of the dense model in float16."""

    metrics: Scores
    plain: CastSize
    coded: CastSize


class Record(Part):
    """Of any run, also one that has failed."""

    status: str
    config: Config
    metrics: dict[str, Scores]
    size: dict[str, Any]
    seed: int | None = None
    numerics: int = 1
    command: str | None = None
    config_hash: str | None = None
    git_commit: str | None = None
    error: str | None = None
    timings: dict[str, Number] | None = None


class Metrics(Part):
    """By name, of both models."""

    dense: Scores
    compressed: Scores


class Size(Part):
    """Of what was stored."""

    dense_bytes: Positive
    artifact_bytes: Positive
    compression_ratio: Positive
    bits_per_weight: Positive
    dense_dtype: str


class Complete(Record):
    """Of a run whose numbers are all there."""

    metrics: Metrics  # type: ignore[assignment]
    size: Size  # type: ignore[assignment]
    latency: Latency | None = None
    budget: BudgetReport | None = None
    ledger: list[Row] | None = None
    float16: Cast | dict[str, Node] | None = None

    @model_validator(mode="after")
    def _all_of_float16(self) -> Self:
        if isinstance(self.float16, dict) and self.float16:
            raise ValueError("float16 has not all numbers")
        return self


class BadRecord(ValueError):
    """A file that is not a run record; nothing of it is used."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} is not a run record ({problem}): delete or move it")
        self.problem = problem


SCORED, FINISHED = "scored", "finished"
COMPLETE = (SCORED, FINISHED)
"""Status of runs whose numbers are all there; where it is `SCORED` the picture, the printed table
or the loggers' copies are still to be made."""


def parse_record(path: Path) -> dict[str, Any]:
    """A `run.json` whose numbers are numbers and whose texts have no control characters.

    Raises:
        BadRecord: names the file and what is wrong with it.
    """
    try:
        record = json.loads(path.read_bytes(), parse_constant=_refuse)
        if _depth(record) > DEEPEST:
            raise ValueError(f"more than {DEEPEST} containers lie in one another")
    except (OSError, ValueError, RecursionError) as error:
        raise BadRecord(path, str(error)) from error
    if not isinstance(record, dict):
        raise BadRecord(path, "it holds no object")
    try:
        (Complete if record.get("status") in COMPLETE else Record).model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the record"
        raise BadRecord(path, f"{printable(place)}: {first['msg']}") from error
    return _printable(record)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, Mapping):
        return {printable(key): _printable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_printable(inner) for inner in value]
    return value


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number in JSON")


def _depth(value: Any) -> int:
    """How many containers lie in one another."""
    level, depth = [value], 0
    while True:
        containers = [each for each in level if isinstance(each, dict | list)]
        if not containers:
            return depth
        depth += 1
        level = [
            inner
            for each in containers
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
