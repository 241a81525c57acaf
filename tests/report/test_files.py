"""`mmcompress report` on run folders that are written here."""

import csv
import json
import re
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from mmcompress import cli
from mmcompress.artifact.ledger import compact
from mmcompress.report.files import Report, read_report, write_report
from mmcompress.report.sections import sections
from mmcompress.system.files import write_json
from tests.report.conftest import as_record

FILES = {
    "report.html",
    "report.md",
    "recipes.tex",
    "recipes.csv",
    "runs.csv",
    "ledger.csv",
    "sensitivity.csv",
    "accuracy_vs_size.png",
    "accuracy_vs_size.svg",
    "accuracy_vs_latency.png",
    "accuracy_vs_latency.svg",
}
BUDGET = {
    "limit": 100,
    "choices": ["dense", "int4 bits=2"],
    "groups": [
        {
            "name": "text.layers.0.q",
            "modality": "text",
            "roles": ["attn.q"],
            "bytes": [4000, 250],
            "losses": [1e-9, 0.125],
            "chosen": 1,
        }
    ],
}


def put(root: Path, *records: dict) -> Path:
    for i, record in enumerate(records):
        folder = root / f"{i}"
        folder.mkdir(parents=True)
        write_json(folder / "run.json", record)
    return root


@pytest.fixture(scope="module")
def runs(make_record, ledger, tmp_path_factory) -> Path:
    """int8 with three seeds, int4 with ledger and budget, one that failed, one that was killed."""
    return put(
        tmp_path_factory.mktemp("report") / "runs",
        *(make_record("int8", ratio=4.0, recall=0.87 + 0.01 * s, seed=s) for s in range(3)),
        make_record("int4", ratio=8.0, recall=0.86) | {"ledger": compact(ledger), "budget": BUDGET},
        make_record("int2") | {"status": "failed", "error": "ValueError: the loss is nan"},
        make_record("int1") | {"status": "running", "metrics": {}, "size": {}},
    )


@pytest.fixture(scope="module")
def out(runs: Path) -> Path:
    """The report on them, where the command puts it by itself."""
    write_report(read_report(runs), runs / "report")
    return runs / "report"


def run_cli(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["mmcompress", *map(str, arguments)])
    cli.main()


def test_the_command_prints_the_tables_and_says_what_did_not_finish(runs, out, monkeypatch, capsys):
    assert {path.name for path in out.iterdir()} == FILES
    monkeypatch.setattr("mmcompress.report.files.write_report", lambda _, out: [out / "a", out])
    run_cli(monkeypatch, "report", runs)
    printed = capsys.readouterr().out
    assert "| int8 | 88.0 | 88.0 ± 1.0 (3 seeds) |" in printed
    assert "2 runs did not finish and are in no table:" in printed
    assert f"- {runs / '4'}: failed, ValueError: the loss is nan" in printed
    assert f"- {runs / '5'}: running\n" in printed
    assert f"{out / 'a'} (and 1 files beside it)" in printed


def test_what_stands_in_the_files(out):
    text = (out / "report.md").read_text()
    assert "| image | attn.q | int4: 4 bits, groups of 64 | 10,000 | 4.00 |" in text
    assert "| text.layers.0.q | text | int4 bits=2 | 250 | 0.12 |" in text
    assert "- int8, seed 2: `python train.py compression=int8 seed=2`" in text

    tex = (out / "recipes.tex").read_text().splitlines()
    assert tex[:3] == [
        "% mini on openmoji, test",
        "% \\usepackage{booktabs}; mean ± sample standard deviation over seeds",
        "\\begin{tabular}{lrrrrrrrrr}",
    ]
    assert [line for line in tex if line.startswith("\\") and line.endswith("rule")] == [
        "\\toprule",
        "\\midrule",
        "\\bottomrule",
    ]
    assert any(
        line.startswith(r"int8 & 3 & 88.0 & 88.0 $\pm$ 1.0 & 0.0 $\pm$ 1.0 &") for line in tex
    )
    assert all(line.count(" & ") == 9 for line in tex if line.endswith(r"\\"))

    with (out / "recipes.csv").open() as file:
        int8, int4 = csv.DictReader(file)
    assert (int8["recipe"], int8["seeds"], int8["family"]) == ("int8", "3", "other")
    assert float(int8["retrieval/mean_recall"]) == pytest.approx(0.88)
    assert float(int8["retrieval/mean_recall std"]) == pytest.approx(0.01)
    assert int4["retrieval/mean_recall std"] == ""
    with (out / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == [*["finished"] * 4, "failed", "running"]
    assert rows[0]["command"] == "python train.py compression=int8 seed=0"
    with (out / "ledger.csv").open() as file:
        assert sum(int(row["bytes"]) for row in csv.DictReader(file)) == 15_704
    with (out / "sensitivity.csv").open() as file:
        chosen = [row for row in csv.DictReader(file) if row["chosen"] == "True"]
    assert [(row["layer"], row["choice"], row["loss"]) for row in chosen] == [
        ("text.layers.0.q", "int4 bits=2", "0.125")
    ]


class Tags(HTMLParser):
    """Tags that are open and were not closed, and every attribute that could load something."""

    VOID = ("meta", "input", "path", "use", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        self.loads += [(k, v) for k, v in attrs if k in ("src", "srcset", "href", "xlink:href")]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.loads += [(k, v) for k, v in attrs if k in ("src", "srcset", "href", "xlink:href")]


def test_the_page_is_whole_and_refers_to_itself_alone(out):
    html = (out / "report.html").read_text()
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.loads
    assert all(target.startswith("#") for _, target in tags.loads)
    assert "@import" not in html
    assert all("#" in found for found in re.findall(r"url\([^)]*\)", html))
    for shown in ("the loss is nan", "python train.py compression=int8 seed=1", "text.layers.0.q"):
        assert shown in html
    assert html.count('class="mark"') == 4, "two recipes in two pictures"


def test_names_cannot_break_out_of_the_page(make_record, tmp_path):
    record = make_record("int8")
    record["config"]["name"] = "<script>alert(1)</script>"
    record["command"] = "python train.py '</script><img src=x>'"
    write_report(read_report(put(tmp_path / "runs", record)), tmp_path / "out")
    html = (tmp_path / "out" / "report.html").read_text()
    assert html.count("<script>") == 1
    assert "<img" not in html


def test_any_metric_and_its_direction(make_record, tmp_path):
    records = []
    for name, ratio, value in (("int8", 4.0, 9.5), ("int4", 8.0, 9.0), ("int2", 16.0, 40.0)):
        record = make_record(name, ratio=ratio)
        scores = {"captioning/perplexity": value}
        record["metrics"] = {"dense": {"captioning/perplexity": 9.1}, "compressed": scores}
        records.append(record)
    report = read_report(put(tmp_path, *records))
    assert report.sections[0].metric == "captioning/perplexity"
    assert [run.name for run in report.details] == ["int2", "int4"], "int8 is larger and worse"
    with pytest.raises(ValueError, match=r"metric 'acc'; those there are: captioning/perplexity"):
        read_report(tmp_path, metric="acc")


def test_runs_on_other_data_get_a_section_of_their_own(make_record, tmp_path):
    digits, elsewhere = make_record("int8"), make_record("int4")
    digits["config"]["data"] = {"_target_": "mmcompress.data.grayscale.Digits", "batch_size": 8}
    elsewhere["config"]["backbone"] = {"_target_": "x", "name": "ViT-B-32", "pretrained": "a/b.pt"}
    larger_batch = make_record("int8", seed=1)
    larger_batch["config"]["data"] = larger_batch["config"]["data"] | {"batch_size": 8}
    records = [make_record("int8"), larger_batch, digits, elsewhere]
    found = sections([as_record(record, str(i)) for i, record in enumerate(records)])
    assert [(section.name, len(section.records)) for section in found] == [
        ("mini on openmoji, test", 2),
        ("mini on Digits, test", 1),
        ("ViT-B-32 b.pt on openmoji, test", 1),
    ]
    files = write_report(Report(tmp_path, found[:2], [], []), tmp_path / "out")
    assert {"accuracy_vs_size.png", "accuracy_vs_size-2.png"} <= {path.name for path in files}
    assert "![accuracy against stored size](accuracy_vs_size-2.png)" in files[1].read_text()


def test_a_named_run_is_shown_from_close(runs, monkeypatch, capsys):
    assert [run.name for run in read_report(runs, runs=[runs / "1"]).details] == ["int8"]
    with pytest.raises(SystemExit, match=r"error: --run .*4 is not the folder of a finished run"):
        run_cli(monkeypatch, "report", runs, "--run", runs / "4")


def test_nothing_to_report_is_one_sentence(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="error: no finished run"):
        run_cli(monkeypatch, "report", tmp_path)
    with pytest.raises(SystemExit, match=r"error: .* is not a folder"):
        run_cli(monkeypatch, "report", tmp_path / "nothing")


def test_hundreds_of_configurations_take_little_time(make_record):
    """They have one name, which is where comparing all with all would show."""
    record = json.dumps(make_record("lowrank", filler=list(range(50))))
    records = []
    for i in range(1000):
        found = json.loads(record)
        found["config"]["compression"]["steps"]["lowrank"]["rank_ratio"] = i / 1000
        records.append(as_record(found))
    begin = time.process_time()
    (section,) = sections(records)
    assert time.process_time() - begin < 5
    assert len(section.summaries) == 1000
    assert "lowrank (rank_ratio=0.007)" in [summary.name for summary in section.summaries]
