"""Runs of one configuration under several seeds, put together: what tables and plots show."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from mmcompress.records.schema import COMPLETE, CastSize, Deployed, Interval, Latency, Record
from mmcompress.records.settings import config_hash, distinct_names, family


@dataclass(frozen=True)
class Spread:
    """Mean and sample standard deviation (n − 1) over `n` seeds; `std` is None for one."""

    mean: float
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of at least one value.

        Example:
            >>> Spread.of([1.0, 3.0])
            Spread(mean=2.0, std=1.4142135623730951, n=2)
        """
        count, mean = len(values), math.fsum(values) / len(values)
        if count == 1:
            return cls(mean, None, 1)
        # `statistics.stdev` adds up fractions, which thousands of runs would wait for.
        square = math.fsum((value - mean) ** 2 for value in values) / (count - 1)
        return cls(mean, math.sqrt(square), count)

    def format(self, digits: int, *, scale: float = 1.0, sign: bool = False) -> str:
        """`mean`, with `± std` where there are several seeds.

        Example:
            >>> Spread(0.61, 0.01, 3).format(1, scale=100), Spread(0.61, None, 1).format(2)
            ('61.0 ± 1.0', '0.61')
        """
        mean = round(self.mean * scale, digits) + 0.0  # −0.0 becomes 0.0
        text = f"{mean:{'+' if sign and mean else ''}.{digits}f}".replace("-", "−")
        return text if self.std is None else f"{text} ± {self.std * scale:.{digits}f}"


@dataclass(frozen=True)
class Summary:
    """One row of a table: all runs that differ in nothing but their seed.

    Attributes:
        dense, compressed, delta: metric name → spread; delta = compressed − dense of each run.
        size: `dense_bytes`, `artifact_bytes`, `compression_ratio`, `bits_per_weight`.
        latency: batch size → compressed / dense latency of each run, which were measured in turn in
            one process; empty where the method cannot be faster and none was measured.
        deployed: the same in the runtime that is deployed; empty where none was measured.
        dense_ms: batch size → milliseconds of the dense model.
        intervals: metric name → `items`, and the 95 % intervals `dense`, `compressed` and `delta`,
            of several seeds the mean of their bounds; empty for records that have none.
        family: of the recipe, see `settings.family`; `CAST` of the dense model in float16.
        records: the runs themselves; none of the dense model in float16.
    """

    name: str
    runs: int
    dense: Mapping[str, Spread]
    compressed: Mapping[str, Spread]
    delta: Mapping[str, Spread]
    size: Mapping[str, Spread]
    dense_dtype: str
    latency: Mapping[str, Spread]
    dense_ms: Mapping[str, Spread]
    family: str
    records: Sequence[Record]
    deployed: Mapping[str, Spread] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)


CAST = "float16"
"""Family of the dense model cast to float16."""

SIZES = ("dense_bytes", "artifact_bytes", "compression_ratio", "bits_per_weight")


def summarize(records: Sequence[Record]) -> list[Summary]:
    """One summary per configuration and dense model, the largest artifact first.

    The dense model cast to float16 has two, plain and entropy coded, where a run has measured it.
    Of several runs with equal seeds the last one counts, so that a repeated run is not mistaken
    for a second seed.

    Args:
        records: finished runs.
    """
    groups: dict[str, dict[int | None, Record]] = {}
    for record in records:
        key = config_hash(record.config, without_seed=True) + _dense_model(record)
        key += f" {record.numerics}"
        groups.setdefault(key, {})[record.seed] = record
    runs = [list(by_seed.values()) for by_seed in groups.values()]
    names = distinct_names([group[0].config for group in runs])
    summaries = [_summary(name, group) for name, group in zip(names, runs, strict=True)]
    casts = {_dense_model(record): record for record in records if record.float16}
    summaries += [cast for record in casts.values() for cast in _cast_summaries(record)]
    return sorted(summaries, key=lambda s: (-s.size["artifact_bytes"].mean, s.name))


def comparable(records: Sequence[Record], record: Record) -> list[Record]:
    """Finished runs that scored the dense model of `record` like it; seeds may differ.

    That is: backbone, data and evaluation are configured alike, and the dense scores are equal.
    """

    def key(other: Record) -> str:
        parts = ("run_dir", "backbone", "data", "evaluation")
        shared = {part: other.config.get(part) for part in parts}
        return config_hash(shared, without_seed=True) + _dense_model(other)

    return [r for r in records if r.status in COMPLETE and key(r) == key(record)]


def _dense_model(record: Record) -> str:
    """Tells dense models apart that one configuration has named: weights may be trained anew."""
    return json.dumps([record.metrics.dense, record.stored.dense_bytes], sort_keys=True)


def _summary(name: str, runs: Sequence[Record]) -> Summary:
    def over(values: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
        shared = [key for key in values[0] if all(key in other for other in values)]
        return {key: Spread.of([other[key] for other in values]) for key in shared}

    dense = [run.metrics.dense for run in runs]
    compressed = [run.metrics.compressed for run in runs]
    return Summary(
        name=name,
        runs=len(runs),
        dense=over(dense),
        compressed=over(compressed),
        delta=over(
            [
                {key: after[key] - before[key] for key in after if key in before}
                for before, after in zip(dense, compressed, strict=True)
            ]
        ),
        size=over([{key: getattr(run.stored, key) for key in SIZES} for run in runs]),
        dense_dtype=runs[0].stored.dense_dtype,
        latency=over([_relative_latency(run.latency) for run in runs]),
        deployed=over([_relative_latency(run.deployed) for run in runs]),
        dense_ms=over([(run.latency and run.latency.dense_ms) or {} for run in runs]),
        family=family(runs[0].config),
        records=runs,
        intervals=_intervals([run.intervals for run in runs]),
    )


def _intervals(runs: Sequence[Mapping[str, Interval]]) -> dict[str, Interval]:
    """Of each metric that all runs have intervals of; of several runs the mean of each number."""
    found = {}
    for name in runs[0]:
        entries = [run[name] for run in runs if name in run]
        if len(entries) == len(runs):
            means = {
                each.name: _mean([getattr(entry, each.name) for entry in entries])
                for each in fields(Interval)
            }
            found[name] = Interval(**means)
    return found


def _mean(values: Sequence[Any]) -> Any:
    """Of numbers, or of both bounds of intervals; None where one is missing."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], list):
        return [_mean(bounds) for bounds in zip(*values, strict=True)]
    return math.fsum(values) / len(values)


def _cast_summaries(record: Record) -> list[Summary]:
    """Of the dense model in float16, as any run with that dense model has measured it."""
    cast, dense = record.float16, record.metrics.dense
    assert cast is not None, "only records with one are asked for it"

    def spread(values: Mapping[str, float]) -> dict[str, Spread]:
        return {key: Spread.of([value]) for key, value in values.items()}

    def sizes(form: str) -> dict[str, float]:
        size: CastSize = getattr(cast, form)
        return {
            "dense_bytes": record.stored.dense_bytes,
            "artifact_bytes": size.bytes,
            "compression_ratio": size.compression_ratio,
            "bits_per_weight": size.bits_per_weight,
        }

    return [
        Summary(
            name=name,
            runs=1,
            dense=spread(dense),
            compressed=spread(cast.metrics),
            delta=spread({k: v - dense[k] for k, v in cast.metrics.items() if k in dense}),
            size=spread(sizes(form)),
            dense_dtype=record.stored.dense_dtype,
            latency={},
            dense_ms={},
            family=CAST,
            records=(),
            intervals=_intervals([cast.intervals]),
        )
        for name, form in (("dense, float16", "plain"), ("dense, float16, coded", "coded"))
    ]


def _relative_latency(latency: Latency | Deployed | None) -> dict[str, float]:
    if latency is None or not latency.dense_ms:
        return {}
    dense = latency.dense_ms
    return {batch: ms / dense[batch] for batch, ms in (latency.compressed_ms or {}).items()}
