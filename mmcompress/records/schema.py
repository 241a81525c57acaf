"""What a `run.json` holds: the one place that knows.

`VERSION` is raised when a field is renamed or means something else; `read` brings older records to
it.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from mmcompress.records.numerics import NUMERICS
from mmcompress.system.text import printable

FILE = "run.json"
VERSION = 1
"""Of the fields; records of 0.1 and 0.2 before it have no `version`."""

LARGEST = 1e100
"""So that sums and squares of numbers are numbers."""

LatencyLike = TypeVar("LatencyLike", "Latency", "Deployed")

Number = Annotated[float, Field(allow_inf_nan=False, ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(allow_inf_nan=False, gt=0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=10**18)]
Bytes = Annotated[int, Field(gt=0, le=10**18)]
Batch = Annotated[str, Field(pattern=r"^\d{1,9}$")]
Scores = dict[str, Number]
ByBatch = dict[Batch, Positive]
Node = dict[str, Any] | None

Status = Literal["running", "scored", "finished", "failed", "interrupted"]
SCORED, FINISHED = "scored", "finished"
COMPLETE = (SCORED, FINISHED)
"""Status of runs whose numbers are all there; where it is `SCORED` the picture, the printed table
or the loggers' copies are still to be made."""


class _Compression(BaseModel):
    """`steps` by name; None takes one away."""

    model_config = ConfigDict(strict=True)

    steps: dict[str, Node] | None = None


class _Config(BaseModel):
    """The parts of a configuration that names and groups of runs are made from."""

    model_config = ConfigDict(strict=True)

    name: str | None = None
    run_dir: str | None = None
    backbone: Node = None
    data: Node = None
    evaluation: Node = None
    trainer: Node = None
    compression: _Compression = _Compression()


def _checked_config(config: dict[str, Any]) -> dict[str, Any]:
    try:
        _Config.model_validate(config)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    return config


@dataclass
class Metrics:
    """Name → value, of both models."""

    dense: Scores
    compressed: Scores


@dataclass
class Interval:
    """How certain a metric is.

    Attributes:
        items: test items.
        compressed, dense, delta: 95 % bootstrap intervals [low, high] of both models and of
            compressed − dense on the same resamples; None where there is none.
        items_apart: test items where equal ones are not one; None where none are equal.
        ceiling_apart: the best value that any model could have if equal items were counted apart.
    """

    items: Count
    compressed: list[Number] | None = None
    dense: list[Number] | None = None
    delta: list[Number] | None = None
    items_apart: Count | None = None
    ceiling_apart: Number | None = None


@dataclass
class Size:
    """Of what was stored, `artifact.ledger.summarize_size`.

    Attributes:
        by_modality: tower → bytes.
        by_part: part of the model → bytes; empty in older records.
        coverage: step → share of the parameters that it targeted.
        coverage_by_part: step → part → the same for its parameters; empty in older records.
    """

    dense_bytes: Bytes
    artifact_bytes: Bytes
    compression_ratio: Positive
    bits_per_weight: Positive
    dense_dtype: str
    by_modality: dict[str, Any] = field(default_factory=dict)
    coverage: dict[str, Any] = field(default_factory=dict)
    by_part: dict[str, Any] = field(default_factory=dict)
    coverage_by_part: dict[str, Any] = field(default_factory=dict)


@dataclass
class CastSize:
    """Of the dense model in float16."""

    bytes: Positive
    compression_ratio: Positive
    bits_per_weight: Positive


@dataclass
class Cast:
    """Scores and sizes of the dense model in float16, `evaluation.float16`."""

    metrics: Scores
    plain: CastSize
    coded: CastSize
    intervals: dict[str, Interval] = field(default_factory=dict)


@dataclass
class Latency:
    """Medians by batch size, `runtime.latency`; of the compressed model None when not measured."""

    dense_ms: ByBatch | None = None
    compressed_ms: ByBatch | None = None
    dense_pairs_per_s: ByBatch | None = None
    compressed_pairs_per_s: ByBatch | None = None
    threads: int | None = None
    runtime: str | None = None
    no_speedup: str | None = None


@dataclass
class Deployed:
    """Both models in the runtime that they are deployed in, `runtime.deployment`.

    Attributes:
        dense_ms, compressed_ms: medians by batch size.
        dense_bytes, compressed_bytes: of all files that the runtime needs.
        dense_memory_bytes, compressed_memory_bytes: resident after one run, without imports.
        not_measured: why nothing was; the others are then None.
    """

    runtime: str | None = None
    threads: int | None = None
    dense_ms: ByBatch | None = None
    compressed_ms: ByBatch | None = None
    dense_bytes: Bytes | None = None
    compressed_bytes: Bytes | None = None
    dense_memory_bytes: Bytes | None = None
    compressed_memory_bytes: Bytes | None = None
    not_measured: str | None = None


def _same_batches(latency: LatencyLike) -> LatencyLike:
    if not (latency.compressed_ms or {}).keys() <= (latency.dense_ms or {}).keys():
        raise ValueError("compressed_ms has batch sizes that dense_ms has not")
    return latency


@dataclass
class Group:
    """A layer in the report of a byte budget: `bytes` and `losses` of each choice."""

    name: str
    modality: str
    chosen: Count
    bytes: list[Count]
    losses: list[Number]


@dataclass
class BudgetReport:
    """What each layer could have had, and the bytes that were allowed."""

    choices: list[str]
    groups: list[Group]
    limit: Count | None = None


def _same_lengths(budget: BudgetReport) -> BudgetReport:
    count = len(budget.choices)
    for group in budget.groups:
        if not (group.chosen < len(group.bytes) == len(group.losses) == count):
            raise ValueError(f"{group.name} has not a number for each of {count} choices")
    return budget


@dataclass
class Row:
    """Of the ledger, `artifact.ledger.compact`: tensors alike in all of this."""

    modality: str
    role: str
    payload: str
    how: str
    why: str
    parameters: Count
    bytes: Count
    tensors: Count = 1
    part: str = ""


@dataclass(kw_only=True)
class Record:
    """One run: what it was, did and measured.

    Attributes:
        folder: of the run; not in the file, which lies there.
        command: that starts it.
        config: the resolved configuration, plain containers.
        numerics: version of what the numbers mean, `records.numerics`.
        metrics, intervals: by name of the metric.
        runtime: what ran the stored model when it was scored, of `runtime.loading.RUNTIMES`.
        dense_sha256: of the dense model, `artifact.dense.dense_checksum`.
        float16: the dense model cast to float16.
        size, latency, deployed: of what was stored; None before that, and `deployed` in records
            of before it was measured.
        budget: None without a byte budget.
        ledger: where the artifact's bytes went; None in records of 0.1.
        data: split → number of items, and of those left out by reason, `PairData.summary()`.
        timings: seconds, of the last start; `total_s` is added at the end.
        starts: how often the run was started; more than once when it was cut short and went on.
    """

    folder: Path
    status: Status
    command: str | None = None
    config: Annotated[dict[str, Any], AfterValidator(_checked_config)]
    config_hash: str = ""
    seed: int | None = None
    git_commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)
    hardware: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=lambda: Metrics({}, {}))
    data: dict[str, Any] = field(default_factory=dict)
    float16: Cast | None = None
    numerics: int = NUMERICS
    intervals: dict[str, Interval] = field(default_factory=dict)
    runtime: str = "dense"
    dense_sha256: str | None = None
    size: Size | None = None
    latency: Annotated[Latency, AfterValidator(_same_batches)] | None = None
    deployed: Annotated[Deployed, AfterValidator(_same_batches)] | None = None
    budget: Annotated[BudgetReport, AfterValidator(_same_lengths)] | None = None
    ledger: list[Row] | None = None
    timings: dict[str, Number] = field(default_factory=dict)
    starts: int = 1
    peak_memory_bytes: int | None = None
    error: str | None = None
    version: int = VERSION

    @property
    def stored(self) -> Size:
        """The sizes of a complete record, which has them."""
        assert self.size is not None, "only complete records have sizes"
        return self.size

    def as_json(self) -> dict[str, Any]:
        """The content of `run.json`, in its order; without the folder."""
        content = _plain(self)
        del content["folder"]
        return {"status": content.pop("status")} | content


def _plain(value: Any) -> Any:
    """Dataclasses as objects, without the certainties that a metric has not."""
    if is_dataclass(value) and not isinstance(value, type):
        named = {each.name: getattr(value, each.name) for each in fields(value)}
        if isinstance(value, Interval):
            named = {name: inner for name, inner in named.items() if inner is not None}
        return {name: _plain(inner) for name, inner in named.items()}
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def first_problem(error: ValidationError) -> str:
    """Where the first value is that cannot be, and why."""
    first = error.errors(include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "the record"
    message = " ".join(first["msg"].removeprefix("Value error, ").split())
    return f"{printable(place)}: {message}"
