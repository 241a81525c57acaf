"""`mmcompress report`: from run folders to tables, pictures and a page."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmcompress.records.record import read_records, stale_line
from mmcompress.records.schema import COMPLETE, Record
from mmcompress.report.details import Details, chosen_runs, details_markdown
from mmcompress.report.formats import (
    comma_separated,
    latex,
    markdown,
    markdown_code,
    markdown_text,
    printable,
)
from mmcompress.report.page import page
from mmcompress.report.pictures import latency_marks, size_marks
from mmcompress.report.plot import SIZE, pareto_figure, save
from mmcompress.report.sections import Section, sections
from mmcompress.report.table import all_values, recipes_table
from mmcompress.system.files import write_atomically


@dataclass(frozen=True)
class Report:
    """What was found below a folder of runs.

    Attributes:
        sections: comparable runs together.
        unfinished: records of runs that failed or are still going on.
        details: runs that are shown from close.
    """

    root: Path
    sections: Sequence[Section]
    unfinished: Sequence[Record]
    details: Sequence[Details]


def read_report(root: Path, *, metric: str | None = None, runs: Sequence[Path] = ()) -> Report:
    """Read every `run.json` below `root`.

    Args:
        metric: what tables and pictures are about; each section's main metric when None.
        runs: folders of runs to show from close; the front of accuracy and bytes when empty.
    Raises:
        ValueError: no finished run, or none with `metric`.
    """
    records = read_records(root)
    unfinished = [record for record in records if record.status not in COMPLETE]
    found = sections([record for record in records if record.status in COMPLETE], metric)
    return Report(root, found, unfinished, chosen_runs(found, runs))


def write_report(report: Report, out: Path) -> list[Path]:
    """Write all files of a report to a folder.

    Returns:
        The files: `report.html`, `report.md`, `recipes.tex`, `recipes.csv`, `runs.csv`,
        `accuracy_vs_size` and `accuracy_vs_latency` as PNG and SVG, and `ledger.csv` and
        `sensitivity.csv` where a run shown from close has them. Pictures of a second section end
        in `-2`.
    """
    out.mkdir(parents=True, exist_ok=True)
    texts = {
        "report.html": page(report.sections, report.details, report.unfinished, root=report.root),
        "report.md": report_markdown(report),
        "recipes.tex": "\n".join(_latex(section) for section in report.sections),
        "recipes.csv": comma_separated(
            [row for s in report.sections for row in all_values(s.name, s.summaries)]
        ),
        "runs.csv": comma_separated(_runs(report)),
        "ledger.csv": comma_separated(_ledger(report.details)),
        "sensitivity.csv": comma_separated(_sensitivity(report.details)),
    }
    files = []
    for name, text in texts.items():
        if text.strip():
            files.append(out / name)
            _write(files[-1], text)
    for number, section in enumerate(report.sections, start=1):
        files += _pictures(section, out, "" if number == 1 else f"-{number}")
    return files


def printed(report: Report) -> str:
    """The tables, and what did not finish."""
    parts = [
        f"{markdown_text(section.name)}\n\n"
        + markdown(recipes_table(section.summaries, section.metric, latency=True))
        for section in report.sections
    ]
    return "\n".join([*parts, remarks(report)])


def report_markdown(report: Report) -> str:
    """Tables, what did not finish, the ledgers of runs shown from close, and every command."""
    parts = []
    for number, section in enumerate(report.sections, start=1):
        suffix = "" if number == 1 else f"-{number}"
        parts.append(f"## {markdown_text(section.name)}\n")
        parts.append(markdown(recipes_table(section.summaries, section.metric, latency=True)))
        parts.append(f"![accuracy against stored size](accuracy_vs_size{suffix}.png)\n")
    parts.append(remarks(report))
    parts += [details_markdown(d) for d in report.details if d.treatments or d.layers]
    parts.append("## Commands\n")
    commands = [
        f"- {markdown_text(summary.name)}, seed {record.seed}: "
        + markdown_code(str(record.command))
        for section in report.sections
        for summary in section.summaries
        for record in summary.records
    ]
    return "\n".join([*filter(None, parts), *commands]) + "\n"


def remarks(report: Report) -> str:
    """Runs of another version of the numbers, and runs that did not finish; empty without any."""
    stale = stale_line([record for section in report.sections for record in section.records])
    return "\n".join(filter(None, [f"{stale}\n" if stale else "", _unfinished_lines(report)]))


def _unfinished_lines(report: Report) -> str:
    if not report.unfinished:
        return ""
    lines = [f"{len(report.unfinished)} runs did not finish and are in no table:\n"]
    for record in report.unfinished:
        error = f", {record.error}" if record.error else ""
        lines.append(markdown_text(f"- {record.folder}: {record.status}{error}"))
    return "\n".join(lines) + "\n"


def _latex(section: Section) -> str:
    return f"% {printable(section.name)}\n" + latex(
        recipes_table(section.summaries, section.metric, latency=True)
    )


def _pictures(section: Section, out: Path, suffix: str) -> list[Path]:
    marks, dense = size_marks(section.summaries, section.metric)
    times, slow, costs = latency_marks(section.summaries, section.metric)
    drawn = [
        ("accuracy_vs_size", list(marks.values()), dense, SIZE),
        ("accuracy_vs_latency", list(times.values()), slow, costs),
    ]
    files = []
    for name, points, references, costs in drawn:
        if points:
            figure = pareto_figure(points, references, section.metric, costs)
            for form in ("png", "svg"):
                files.append(out / f"{name}{suffix}.{form}")
                save(figure, files[-1])
    return files


def _runs(report: Report) -> list[dict[str, Any]]:
    """One row per run, those that did not finish too."""
    named = [
        (section.name, summary.name, record)
        for section in report.sections
        for summary in section.summaries
        for record in summary.records
    ]
    named += [("", "", record) for record in report.unfinished]
    rows = []
    for section, recipe, record in named:
        row: dict[str, Any] = {"section": section, "recipe": recipe}
        row |= {"folder": str(record.folder)}
        row |= {key: getattr(record, key) for key in ("status", "error", "seed", "command")}
        row |= {key: getattr(record, key) for key in ("config_hash", "git_commit")}
        row |= {f"dense/{name}": value for name, value in record.metrics.dense.items()}
        row |= {f"compressed/{name}": value for name, value in record.metrics.compressed.items()}
        sizes = asdict(record.size) if record.size else {}
        row |= {name: value for name, value in sizes.items() if not isinstance(value, dict)}
        row |= record.timings
        rows.append(row)
    return rows


def _ledger(details: Sequence[Details]) -> list[dict[str, Any]]:
    return [
        {"folder": run.folder, "recipe": run.name, **asdict(row)}
        for run in details
        for row in run.record.ledger or []
    ]


def _sensitivity(details: Sequence[Details]) -> list[dict[str, Any]]:
    return [
        {
            "folder": run.folder,
            "layer": layer.name,
            "modality": layer.modality,
            "choice": choice,
            "bytes": layer.bytes[i],
            "loss": layer.losses[i],
            "chosen": i == layer.chosen,
        }
        for run in details
        for layer in run.layers
        for i, choice in enumerate(run.choices)
    ]


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode("utf-8", "backslashreplace")))
