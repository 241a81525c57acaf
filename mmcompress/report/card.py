"""The card of a model: what of it may be compressed."""

from rich.console import Console
from rich.table import Table

from mmcompress.backbones.card import Card
from mmcompress.format.parts import in_order
from mmcompress.report.console import add_row, report_console


def print_card(card: Card, *, console: Console | None = None) -> None:
    """What of a model may be compressed, by tower and role; what may not, and why.

    Args:
        card: of `card_of`.
        console: standard output when None.
    """
    console = console or report_console()
    for title, rows in (("weights", card.weights), ("whole modules", card.units)):
        table = Table(title=title, title_justify="left")
        for column in ("part", "modality", "role", "granularity"):
            table.add_column(column)
        for column in ("targets", "parameters", "share"):
            table.add_column(column, justify="right", no_wrap=True)
        previous = None
        for row in sorted(rows, key=lambda row: in_order(row.part)):
            if previous not in (None, row.part):
                table.add_section()
            previous = row.part
            sizes = _parameter_cells(row.parameters, card.parameters)
            words = row.part, row.modality, row.role, row.granularity
            add_row(table, *words, str(row.count), *sizes)
        if title == "weights":
            table.add_section()
            number = sum(row.count for row in rows)
            sizes = _parameter_cells(card.targets, card.parameters)
            add_row(table, "total", "", "", "", str(number), *sizes)
        console.print(table)
    _print_parts(card, console)
    table = Table(title="stays dense", title_justify="left")
    table.add_column("why", overflow="fold")
    for column in ("parameters", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for reason, parameters in card.left.items():
        add_row(table, reason, *_parameter_cells(parameters, card.parameters))
    console.print(table)


def _print_parts(card: Card, console: Console) -> None:
    """How much of each part may be compressed, and why not the rest."""
    table = Table(title="parts", title_justify="left")
    table.add_column("part")
    for column in ("parameters", "targets"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("stays dense", overflow="fold")
    for part, row in card.parts.items():
        why = ", ".join(f"{reason} {count:,}" for reason, count in row.left.items())
        share = f"{row.targets / row.parameters:.1%}"
        add_row(table, part, f"{row.parameters:,}", share, why)
    console.print(table)


def _parameter_cells(parameters: int, total: int) -> tuple[str, str]:
    return f"{parameters:,}", f"{parameters / total:.1%}"
