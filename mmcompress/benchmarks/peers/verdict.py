"""Tables of `benchmark_peers.py`: what each library reached, and whether ours is half the size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmcompress.report.metrics import title
from mmcompress.report.summary import Spread, Summary
from mmcompress.report.table import ABSENT, MAIN_METRIC, MEGABYTE

ZEROSHOT = "zeroshot/subgroup_acc@1"

WITHIN = 0.02
"""Loss of the main metric, against the dense model, up to which artifacts are compared."""


@dataclass(frozen=True)
class Point:
    """One setting, over its seeds.

    Attributes:
        name: library and setting, or our recipe.
        bytes: of all its files, mean.
        value: of the main metric.
        graph: bytes of those files that hold the network's graph and no weight.
    """

    name: str
    bytes: float
    value: Spread
    graph: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """A peer beside our smallest artifact that is at least as accurate.

    Attributes:
        ours: None when none of ours is as accurate.
    """

    peer: Point
    ours: Point | None

    @property
    def ratio(self) -> float | None:
        """Bytes of the peer per byte of ours."""
        return None if self.ours is None else self.peer.bytes / self.ours.bytes

    @property
    def holds(self) -> bool:
        """Whether ours is at most half the bytes."""
        return self.ratio is not None and self.ratio >= 2

    @property
    def holds_without_graph(self) -> bool:
        """The same, the peer's graph not counted."""
        return self.ours is not None and self.peer.bytes - self.peer.graph >= 2 * self.ours.bytes


def verdicts(
    peers: Iterable[Point], ours: Sequence[Point], dense: float, within: float = WITHIN
) -> list[Verdict]:
    """One per peer that loses at most `within` of the main metric, the most accurate first."""
    near = [p for p in peers if p.value.mean >= dense - within]
    found = []
    for peer in sorted(near, key=lambda p: (-p.value.mean, p.bytes)):
        accurate = [point for point in ours if point.value.mean >= peer.value.mean]
        found.append(Verdict(peer, min(accurate, key=lambda p: p.bytes, default=None)))
    return found


def points_of(summaries: Iterable[Summary]) -> list[Point]:
    """Our recipes."""
    return [
        Point(s.name, s.size["artifact_bytes"].mean, s.compressed[MAIN_METRIC]) for s in summaries
    ]


def grouped(results: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Rows that differ in their seed alone, together; in the order in which they come first."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in results:
        groups.setdefault((row["peer"], row["name"], row["trained"]), []).append(row)
    return list(groups.values())


def points_in(results: Iterable[Mapping[str, Any]]) -> list[Point]:
    """The peers' settings that did not fail."""
    points = []
    for rows in grouped(r for r in results if r["metrics"]):
        first = rows[0]
        name = f"{first['peer']} {first['name']}{', fine-tuned' if first['trained'] else ''}"
        size = Spread.of([row["bytes"] for row in rows]).mean
        graph = Spread.of([row["graph_bytes"] for row in rows]).mean
        points.append(Point(name, size, _spread(rows, MAIN_METRIC), graph))
    return points


def results_table(
    results: Sequence[Mapping[str, Any]], dense: Mapping[str, float], dense_bytes: int
) -> str:
    """One line per setting; a cell is `mean ± std (n seeds)`, without ± for one seed."""
    header = (
        "library",
        "setting",
        "fine-tuned",
        title(MAIN_METRIC, unit=True),
        "Δ (points)",
        title(ZEROSHOT, unit=True),
        "stored (MB)",
        "ratio to dense float32",
        "parameters compressed (%)",
        "saved as",
    )
    aligned = ("---",) * 3 + ("---:",) * 6 + ("---",)
    first = ("dense", ABSENT, ABSENT, f"{100 * dense[MAIN_METRIC]:.1f}", ABSENT)
    size = (f"{dense_bytes / MEGABYTE:.2f}", "1.00", ABSENT, "safetensors, float32")
    lines: list[tuple[str, ...]] = [header, aligned]
    lines.append((*first, f"{100 * dense[ZEROSHOT]:.1f}", *size))
    lines += [_line(rows, dense, dense_bytes) for rows in grouped(results)]
    return _markdown(lines)


def verdict_table(found: Sequence[Verdict]) -> str:
    """Peer, our smallest artifact at least as accurate, and whether it is half the size."""
    metric = title(MAIN_METRIC, unit=True)
    peers = ("peer", metric, "MB", "our smallest at least as accurate")
    header = (*peers, metric, "MB", "times smaller", "at most half the bytes")
    lines: list[tuple[str, ...]] = [
        header,
        ("---", "---:", "---:", "---", "---:", "---:", "---:", "---"),
    ]
    for verdict in found:
        lines.append((*_cells(verdict.peer), *_ours(verdict)))
    return _markdown(lines)


def _ours(verdict: Verdict) -> tuple[str, ...]:
    if verdict.ours is None:
        return ("none", ABSENT, ABSENT, ABSENT, "no: none of ours is as accurate")
    answer = "yes" if verdict.holds else "no"
    if verdict.holds and not verdict.holds_without_graph:
        answer = "yes, but not if its graph (.xml) is left out"
    return (*_cells(verdict.ours), f"{verdict.ratio:.2f}", answer)


def _cells(point: Point) -> tuple[str, str, str]:
    return point.name, _cell(point.value, 1, 100), f"{point.bytes / MEGABYTE:.2f}"


def _line(
    rows: Sequence[Mapping[str, Any]], dense: Mapping[str, float], dense_bytes: int
) -> tuple[str, ...]:
    first = rows[0]
    start = (first["peer"], first["name"], "yes" if first["trained"] else "no")
    done = [row for row in rows if row["metrics"]]
    if not done:
        return (*start, *(ABSENT,) * 6, first["error"])
    size = Spread.of([row["bytes"] for row in done])
    coverage = Spread.of([row["coverage"] for row in done])
    failed = f"; {len(rows) - len(done)} seeds failed" if len(done) < len(rows) else ""
    return (
        *start,
        _cell(_spread(done, MAIN_METRIC), 1, 100),
        _cell(_spread(done, MAIN_METRIC, dense[MAIN_METRIC]), 1, 100, sign=True),
        _cell(_spread(done, ZEROSHOT), 1, 100),
        f"{size.mean / MEGABYTE:.2f}",
        f"{dense_bytes / size.mean:.2f}",
        f"{100 * coverage.mean:.0f}",
        first["saved"] + failed,
    )


def _spread(rows: Sequence[Mapping[str, Any]], metric: str, minus: float = 0.0) -> Spread:
    return Spread.of([row["metrics"][metric] - minus for row in rows])


def _cell(spread: Spread, digits: int, scale: float, *, sign: bool = False) -> str:
    seeds = f" ({spread.n} seeds)" if spread.n > 1 else ""
    return spread.format(digits, scale=scale, sign=sign) + seeds


def _markdown(lines: Iterable[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"
