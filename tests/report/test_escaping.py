"""Names and texts of a run record are shown, and neither run nor obeyed."""

import csv
import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from mmcompress.cli import report
from mmcompress.report.console import print_report
from mmcompress.report.formats import (
    Cell,
    Table,
    comma_separated,
    latex,
    latex_text,
    markdown_code,
    markdown_lines,
    markdown_text,
)
from tests.report.conftest import as_record

FORMULAS = ('=HYPERLINK("http://x","y")', "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1")


@pytest.mark.parametrize("text", FORMULAS)
def test_a_text_is_no_formula(text: str) -> None:
    rows = list(csv.reader(io.StringIO(comma_separated([{"name": text, text: "x"}]))))
    assert all(cell.startswith("'") for cell in (rows[0][1], rows[1][0]))
    assert not any(character in rows[1][0] for character in "\t\r\n")


def test_numbers_of_a_table_stay_numbers() -> None:
    rows = [{"delta": -0.5, "count": -3, "chosen": True, "none": None, "name": "int4"}]
    assert comma_separated(rows) == "delta,count,chosen,none,name\n-0.5,-3,True,,int4\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>x</script>", "&lt;script>x&lt;/script>"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("a\n| b", r"a\\n\| b"),
        ("![x](http://x)", r"![x]\(http://x)"),
        ("&lt;b>", "&amp;lt;b>"),
        ("int4 (bits=4) & more", "int4 (bits=4) & more"),
    ],
)
def test_markdown_is_text(text: str, shown: str) -> None:
    assert markdown_text(text) == shown
    assert markdown_lines([[text, "b"]]) == f"| {shown} | b |\n"


def test_code_in_markdown_ends_where_it_ends() -> None:
    assert markdown_code("a ``b`` c") == "``` a ``b`` c ```"
    assert markdown_code("a\nb") == r"`a\nb`"


def test_latex_is_text() -> None:
    assert latex_text(r"\input{x}%$") == r"\textbackslash{}input\{x\}\%\$"
    table = Table(("recipe", "x"), ("[2cm]", "*"), (1, 1), ((Cell("1", 1.0),), (Cell("2", 2.0),)))
    lines = latex(table).splitlines()
    assert r"{[}2cm] & 1 \\" in lines
    assert r"{*} & 2 \\" in lines


HOSTILE = '[red]=1|<b onclick="x">$\\frac$\x1b[2J\n# x`y`[/]'


def test_a_hostile_record_is_shown_in_every_form(
    make_record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for status in ("finished", "failed"):
        record = make_record("int4") | {"status": status, "command": HOSTILE, "error": HOSTILE}
        record["config"]["name"] = HOSTILE
        record["config"]["backbone"] = {"name": HOSTILE}
        for metrics in record["metrics"].values():
            metrics[HOSTILE] = 0.5
        (tmp_path / status).mkdir()
        (tmp_path / status / "run.json").write_text(json.dumps(record))
    report(tmp_path, None, HOSTILE.replace("\x1b", r"\x1b").replace("\n", r"\n"), [])
    output = capsys.readouterr().out
    texts = {path.name: path.read_text() for path in (tmp_path / "report").glob("*.[chmt]*")}
    assert {"report.html", "report.md", "recipes.tex", "recipes.csv", "runs.csv"} <= texts.keys()
    for name, text in {"terminal": output, **texts}.items():
        assert "\x1b" not in text, name
        if not name.endswith(".csv"):  # code is code in Markdown, whatever it holds
            assert "<b " not in re.sub("`` .* ``", "", text), name
    assert "\n# x" not in texts["report.md"]
    assert {path.suffix for path in (tmp_path / "report").glob("accuracy_vs_size*")} == {
        ".png",
        ".svg",
    }


def test_the_console_takes_no_markup_from_a_record(make_record) -> None:
    record = as_record(make_record("int4"))
    record.metrics.compressed = {"[/]\x1b[2J": 0.5}
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    print_report(record, Path("[bold]x"), console=console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert r"[/]\x1b[2J" in text
    assert "artifact: [bold]x" in text
