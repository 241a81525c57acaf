"""What a run prints at its end, and the ledger of an artifact."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from mmcompress.artifact.ledger import (
    LedgerRow,
    Share,
    summarize,
    summarize_parts,
    summarize_treatments,
)
from mmcompress.records.schema import Cast, Deployed, Interval, Latency, Record, Size
from mmcompress.report.metrics import format_interval, format_metric, is_percent, main_metric
from mmcompress.system.text import printable

MIN_WIDTH = 120
"""Columns that a pipe or a log gets, where there is no terminal to ask."""

NO_VALUE = "–"


def report_console() -> Console:
    """Standard output: its own width on a terminal, at least `MIN_WIDTH` in pipes and logs."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, MIN_WIDTH)
    return console


def _plain(text: str) -> Text:
    """What nobody takes for markup or for a command to the terminal."""
    return Text(printable(text))


def add_row(table: Table, *cells: str) -> None:
    """A row of texts, none of which is taken for markup or for a command to the terminal."""
    table.add_row(*map(_plain, cells))


def format_bytes(count: int) -> str:
    """Example:

    >>> format_bytes(20_181_644), format_bytes(950)
    ('20.18 MB (20,181,644)', '950 B')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= unit:
            return f"{count / unit:.2f} {name} ({count:,})"
    return f"{count} B"


def print_report(record: Record, artifact: Path, *, console: Console | None = None) -> None:
    """The one table of a run, and where the artifact lies.

    Args:
        record: of the run.
        artifact: its folder.
        console: standard output when None.
    """
    console = console or report_console()
    runtime = "" if record.runtime == "dense" else f", in the runtime {record.runtime}"
    title = f"dense and compressed, reloaded from the artifact{runtime}"
    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    for column in ("items", "dense", "compressed", "Δ"):
        table.add_column(column, justify="right")
    for rows in (_metric_rows(record), _size_rows(record.stored)):
        for row in rows:
            add_row(table, *row)
        table.add_section()
    latency = record.latency
    for row in _latency_rows(latency) if latency else ():
        add_row(table, *row)
    console.print(table)
    if record.deployed:
        _print_deployed(record.deployed, console)
    for line in _interval_lines(record.intervals):
        console.print(_plain(line), soft_wrap=True)
    if record.float16:
        console.print(_plain(_float16_line(record.float16, record)), soft_wrap=True)
    if latency:
        how = f"{latency.runtime}, {_threads(latency.threads)}, median"
        console.print(_plain(f"latency: {how}"))
    if latency and latency.no_speedup:
        console.print(_plain(f"no speed-up expected: {latency.no_speedup}"))
    for step, share in record.stored.coverage.items():
        console.print(_plain(f"{step} targeted {share:.1%} of the parameters"))
    if record.budget and record.budget.limit:
        line = _budget_line(record.budget.limit, record.stored.artifact_bytes)
        console.print(_plain(line), soft_wrap=True)
    console.print(_plain(f"artifact: {artifact}"), soft_wrap=True)


def _float16_line(cast: Cast, record: Record) -> str:
    """What a mere cast of the dense model reaches: a method has to beat it."""
    plain, coded = (
        f"{format_bytes(int(size.bytes))}, {size.compression_ratio:.2f}×"
        for size in (cast.plain, cast.coded)
    )
    text = f"dense cast to float16: {plain}; entropy coded: {coded}"
    metric = main_metric([record])
    if metric in cast.metrics:
        text += f"; {metric} {format_metric(metric, cast.metrics[metric])}"
    return text


def _metric_rows(record: Record) -> Iterable[tuple[str, ...]]:
    for name, value in record.metrics.compressed.items():
        entry, before = record.intervals.get(name), record.metrics.dense.get(name)
        items = f"{entry.items:,}" if entry else ""
        bounds = entry or Interval(0)
        after = _with_interval(name, format_metric(name, value), bounds.compressed)
        if before is None:
            yield name, items, NO_VALUE, after, NO_VALUE
        else:
            change = value - before
            delta = f"{100 * change:+.2f} points" if is_percent(name) else f"{change:+.4g}"
            yield (
                name,
                items,
                _with_interval(name, format_metric(name, before), bounds.dense),
                after,
                _with_interval(name, _minus(delta), bounds.delta, sign=True),
            )


def _with_interval(
    name: str, text: str, bounds: Sequence[float] | None, *, sign: bool = False
) -> str:
    if not bounds:
        return text
    return f"{text} {format_interval(name, bounds, 1 if is_percent(name) else 4, sign=sign)}"


def _interval_lines(intervals: Mapping[str, Interval]) -> Iterable[str]:
    """What the brackets are, and what equal items would have cost."""
    if intervals:
        yield (
            "[ ]: 95 % bootstrap interval over the test items; that of Δ is paired, both models on "
            "the same items"
        )
    for name, entry in intervals.items():
        if entry.items_apart is not None and entry.ceiling_apart is not None:
            yield (
                f"{name}: {entry.items:,} of {entry.items_apart:,} items are distinct, and "
                "equal ones count as one; counted apart, no model could exceed "
                f"{format_metric(name, entry.ceiling_apart)}"
            )


def _size_rows(size: Size) -> Iterable[tuple[str, ...]]:
    dense, stored = size.dense_bytes, size.artifact_bytes
    change = _minus(f"{stored / dense - 1:+.1%}")
    dense_bits = size.bits_per_weight * size.compression_ratio
    name = f"bytes (dense: {size.dense_dtype})"
    yield name, "", format_bytes(dense), format_bytes(stored), change
    yield "compression_ratio", "", "1.00×", f"{size.compression_ratio:.2f}×", ""
    yield "bits_per_weight", "", f"{dense_bits:.2f}", f"{size.bits_per_weight:.2f}", ""


def _latency_rows(latency: Latency) -> Iterable[tuple[str, ...]]:
    for name, key, unit in (("latency", "ms", "ms"), ("throughput", "pairs_per_s", "pairs/s")):
        compressed = getattr(latency, f"compressed_{key}")
        for batch, dense in (getattr(latency, f"dense_{key}") or {}).items():
            cells = f"{name}, batch {batch}", "", f"{dense:.1f} {unit}"
            if compressed is None:
                yield *cells, NO_VALUE, NO_VALUE
            else:
                after = compressed[batch]
                faster = dense / after if key == "ms" else after / dense
                yield *cells, f"{after:.1f} {unit}", f"{faster:.2f}× as fast"


def _print_deployed(deployed: Deployed, console: Console) -> None:
    """The table of what a user of the runtime gets, or why there is none."""
    if deployed.not_measured:
        line = f"not measured in ONNX Runtime: {deployed.not_measured}"
        console.print(_plain(line), soft_wrap=True)
        return
    title = (
        f"deployed: {deployed.runtime}, {_threads(deployed.threads)}, dense and compressed in turn"
    )
    table = Table(title=title, title_justify="left")
    for column in ("", "dense", "compressed", "Δ"):
        table.add_column(column, justify="right" if column else "left")
    after = deployed.compressed_ms or {}
    for batch, dense in (deployed.dense_ms or {}).items():
        cells = f"latency, batch {batch}, median", f"{dense:.1f} ms", f"{after[batch]:.1f} ms"
        add_row(table, *cells, f"{dense / after[batch]:.2f}× as fast")
    for name, key in (("resident memory", "memory_bytes"), ("files", "bytes")):
        dense_bytes = getattr(deployed, f"dense_{key}")
        compressed_bytes = getattr(deployed, f"compressed_{key}")
        if dense_bytes and compressed_bytes:
            cells = name, format_bytes(dense_bytes), format_bytes(compressed_bytes)
            add_row(table, *cells, _minus(f"{compressed_bytes / dense_bytes - 1:+.1%}"))
    console.print(table)


def _threads(count: int | None) -> str:
    return f"{count} thread{'' if count == 1 else 's'}"


def _budget_line(limit: int, stored: int) -> str:
    if stored <= limit:
        return f"budget: {stored:,} of {limit:,} bytes used"
    return (
        f"budget: {stored - limit:,} bytes over the {limit:,} allowed, for what was trained costs "
        f"more in codes: raise budget.ratio by {stored / limit - 1:.0%} or train less"
    )


def _minus(text: str) -> str:
    return text.replace("-", "−")


def print_ledger(rows: Sequence[LedgerRow], *, console: Console | None = None) -> None:
    """Where the bytes went.

    By tower × role × payload; by part × how they are stored, and by tower × role × how, with bits
    per parameter; and why each dense tensor was left dense.

    Args:
        rows: `Artifact.ledger()`; all together they are the bytes of the artifact's files.
        console: standard output when None.
    """
    console = console or report_console()
    total = sum(row.bytes for row in rows)
    table = Table(title="ledger", title_justify="left")
    for column in ("modality", "role", "payload"):
        table.add_column(column)
    for column in ("bytes", "share"):
        table.add_column(column, justify="right")
    previous = None
    for (modality, role, payload), size in sorted(summarize(rows).items()):
        if previous not in (None, modality):
            table.add_section()
        previous = modality
        add_row(table, modality, role, payload, f"{size:,}", f"{size / total:.1%}")
    table.add_section()
    add_row(table, "total", "", "bytes of both files", f"{total:,}", "100.0%")
    console.print(table)
    _print_parts(rows, console)
    _print_treatments(rows, console)
    _print_left_dense([row for row in rows if row.payload == "dense"], console)


def _print_parts(rows: Sequence[LedgerRow], console: Console) -> None:
    """What each part of the model takes, by how it is stored."""
    table = Table(title="parts; bits are per parameter", title_justify="left")
    for column in ("part", "how"):
        table.add_column(column, overflow="fold")
    for column in ("tensors", "parameters", "bytes", "bits"):
        table.add_column(column, justify="right", no_wrap=True)
    previous = None
    for (part, how), share in summarize_parts([row for row in rows if row.how]).items():
        if previous not in (None, part):
            table.add_section()
        previous = part
        add_row(table, part, how, *_share_cells(share))
    console.print(table)


def _print_treatments(rows: Sequence[LedgerRow], console: Console) -> None:
    """Header and manifest have no parameters and count in the total only."""
    groups = {place: share for place, share in summarize_treatments(rows).items() if place[2]}
    if not groups:
        return
    table = Table(title="who paid what; bits are per parameter", title_justify="left")
    for column in ("modality", "role", "how"):
        table.add_column(column, overflow="fold")
    for column in ("tensors", "parameters", "bytes", "bits"):
        table.add_column(column, justify="right", no_wrap=True)
    previous = None
    for (modality, role, how), share in sorted(groups.items()):
        if previous not in (None, modality):
            table.add_section()
        previous = modality
        add_row(table, modality, role, how, *_share_cells(share))
    table.add_section()
    total = Share(
        sum(share.tensors for share in groups.values()),
        sum(share.parameters for share in groups.values()),
        sum(row.bytes for row in rows),
    )
    add_row(table, "total", "", "with header and manifest", *_share_cells(total))
    console.print(table)


def _share_cells(share: Share) -> tuple[str, ...]:
    bits = f"{8 * share.bytes / share.parameters:.2f}" if share.parameters else NO_VALUE
    return f"{share.tensors:,}", f"{share.parameters:,}", f"{share.bytes:,}", bits


def _print_left_dense(rows: Sequence[LedgerRow], console: Console) -> None:
    """Tensors of one name and one reason share a line, whatever their layer."""
    if not rows:
        return
    table = Table(title="left dense", title_justify="left")
    table.add_column("tensors", overflow="fold")
    table.add_column("number", justify="right")
    table.add_column("bytes", justify="right")
    table.add_column("why", overflow="fold")
    groups: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        name = re.sub(r"\.\d+\.", ".*.", row.tensor)
        groups.setdefault((name, row.note), []).append(row.bytes)
    for (name, note), sizes in groups.items():
        add_row(table, name, str(len(sizes)), f"{sum(sizes):,}", note)
    console.print(table)
