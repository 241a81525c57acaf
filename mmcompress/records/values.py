"""The numbers of a run, by the names that loggers, sweepers and W&B know them by."""

import itertools
from dataclasses import asdict

from mmcompress.records.schema import Record


def summary_values(record: Record) -> dict[str, float]:
    """The numbers of a run record, one level deep.

    Example:
        >>> from pathlib import Path
        >>> record = Record(folder=Path(), config={}, status="finished", timings={"fit_s": 7})
        >>> record.metrics.dense["a"], record.metrics.compressed["a"] = 0.5, 0.4
        >>> summary_values(record)
        {'a': 0.4, 'dense/a': 0.5, 'timings/fit_s': 7}
    """
    dense, compressed = record.metrics.dense, record.metrics.compressed
    values = compressed | {f"dense/{name}": value for name, value in dense.items()}
    for name, entry in record.intervals.items():
        values[f"items/{name}"] = entry.items
        for which, prefix in (("compressed", ""), ("dense", "dense/"), ("delta", "delta/")):
            for end, bound in zip(("low", "high"), getattr(entry, which) or (), strict=False):
                values[f"{prefix}{name}_{end}"] = bound
        if entry.delta is not None:
            values[f"delta/{name}"] = compressed[name] - dense[name]
    if record.float16:
        cast = record.float16
        values |= {f"float16/{name}": value for name, value in cast.metrics.items()}
        values |= {"float16/plain_bytes": cast.plain.bytes, "float16/coded_bytes": cast.coded.bytes}
    sizes = asdict(record.size) if record.size else {}
    values |= {f"size/{k}": v for k, v in sizes.items() if isinstance(v, int | float)}
    values |= {f"timings/{name}": seconds for name, seconds in record.timings.items()}
    for model, unit in itertools.product(("dense", "compressed"), ("ms", "pairs_per_s")):
        which = f"{model}_{unit}"
        for batch, value in (getattr(record.latency, which, None) or {}).items():
            values[f"latency/{which}_batch_{batch}"] = value
    for name, value in (asdict(record.deployed) if record.deployed else {}).items():
        if isinstance(value, int | float):
            values[f"deployed/{name}"] = value
        elif isinstance(value, dict):
            values |= {f"deployed/{name}_batch_{batch}": ms for batch, ms in value.items()}
    return values
