"""Malformed run records: each is named in one line, and the others are in the report."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmcompress.cli import report
from mmcompress.records.record import read_record, read_records
from mmcompress.records.schema import VERSION
from mmcompress.system.files import write_json
from tests.report.conftest import as_record


def put(*path: str, value: Any) -> Callable[[dict], bytes]:
    """The record with another value at a place."""

    def change(record: dict) -> bytes:
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        return json.dumps(record).encode()

    return change


def without(*path: str) -> Callable[[dict], bytes]:
    def change(record: dict) -> bytes:
        inner = record
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        return json.dumps(record).encode()

    return change


def raw(content: bytes) -> Callable[[dict], bytes]:
    return lambda record: content


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


RECALL = "retrieval/mean_recall"
GROUP = {"name": "x", "modality": "image", "chosen": 0, "bytes": [1], "losses": [0.1]}
ROW = {
    **{"modality": "image", "role": "other", "payload": "dense", "how": "dense", "why": ""},
    **{"tensors": 1, "parameters": 1, "bytes": 2},
}
MALFORMED = {
    "empty": raw(b""),
    "half": lambda record: json.dumps(record).encode()[:200],
    "a list": raw(b"[]"),
    "a number": raw(b"3"),
    "null": raw(b"null"),
    "no UTF-8": lambda record: json.dumps(record).encode() + b"\xff",
    "UTF-16": lambda record: json.dumps(record).encode("utf-16") + b"\x00",
    "brackets without end": raw(b"[" * 200_000),
    "deep": put("config", "data", "x", value=nested(400)),
    "an empty object": raw(b"{}"),
    "status is a number": put("status", value=1),
    "no status": without("status"),
    "config is a list": put("config", value=[]),
    "no config": without("config"),
    "steps are a list": put("config", "compression", "steps", value=["int4"]),
    "a step is text": put("config", "compression", "steps", "int4", value="x"),
    "compression is text": put("config", "compression", value="int4"),
    "backbone is text": put("config", "backbone", value="mini"),
    "data are a list": put("config", "data", value=[1]),
    "name is a number": put("config", "name", value=4),
    "run_dir is a number": put("config", "run_dir", value=4),
    "metrics are a list": put("metrics", value=[]),
    "no compressed metrics": without("metrics", "compressed"),
    "no dense metrics": without("metrics", "dense"),
    "a metric is text": put("metrics", "compressed", RECALL, value="0.9"),
    "a metric is null": put("metrics", "compressed", RECALL, value=None),
    "a metric is true": put("metrics", "dense", RECALL, value=True),
    "a metric is NaN": put("metrics", "compressed", RECALL, value=float("nan")),
    "a metric is infinite": put("metrics", "dense", RECALL, value=float("inf")),
    "a metric is 1e999": lambda record: json.dumps(record).encode().replace(b"0.88", b"1e999"),
    "a metric of 400 digits": put("metrics", "dense", RECALL, value=10**400),
    "a metric that squares to infinity": put("metrics", "dense", RECALL, value=1e300),
    "no size": without("size"),
    "no bytes": without("size", "artifact_bytes"),
    "negative bytes": put("size", "artifact_bytes", value=-5),
    "no bytes at all": put("size", "dense_bytes", value=0),
    "bytes are text": put("size", "artifact_bytes", value="12 MB"),
    "ratio is null": put("size", "compression_ratio", value=None),
    "dtype is a number": put("size", "dense_dtype", value=32),
    "latency is a list": put("latency", value=[1]),
    "a latency is zero": put("latency", "dense_ms", "1", value=0.0),
    "a latency is text": put("latency", "compressed_ms", "1", value="fast"),
    "batch size is a word": put("latency", "dense_ms", value={"large": 1.0}),
    "latency of one model": put("latency", "dense_ms", value={}),
    "seed is a list": put("seed", value=[0]),
    "seed is text": put("seed", value="zero"),
    "error is a number": put("error", value=1),
    "command is a list": put("command", value=["python"]),
    "timings are text": put("timings", value="long"),
    "a time is text": put("timings", "total_s", value="long"),
    "numerics is text": put("numerics", value="two"),
    "budget is a list": put("budget", value=[1]),
    "budget without choices": put("budget", value={"groups": [GROUP]}),
    "choice out of range": put(
        "budget", value={"choices": ["a"], "groups": [GROUP | {"chosen": 1}]}
    ),
    "too few losses": put("budget", value={"choices": ["a"], "groups": [GROUP | {"losses": []}]}),
    "ledger is an object": put("ledger", value={}),
    "a row without bytes": put("ledger", value=[{k: v for k, v in ROW.items() if k != "bytes"}]),
    "a row with negative bytes": put("ledger", value=[ROW | {"bytes": -1}]),
    "of a later version": put("version", value=VERSION + 1),
    "version is text": put("version", value="one"),
    "half of float16": put("float16", value={"metrics": {RECALL: 0.9}}),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_a_malformed_record_is_named_and_the_others_are_read(
    kind: str, make_record, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = make_record("int8", ratio=4.0)
    content = MALFORMED[kind](copy.deepcopy(make_record("int4", ratio=8.0)))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "run.json").write_bytes(content)
    write_json(tmp_path / "b" / "run.json", good)
    assert read_records(tmp_path) == [as_record(good, str(tmp_path / "b"))]
    (message,) = caplog.messages
    assert message.startswith(f"left out: {tmp_path / 'a' / 'run.json'} is not a run record (")
    assert message.endswith("): delete or move it")
    assert "\n" not in message


def test_a_report_goes_on_without_malformed_records(
    make_record, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, change in enumerate(MALFORMED.values()):
        folder = tmp_path / f"{number:02}"
        folder.mkdir()
        (folder / "run.json").write_bytes(change(copy.deepcopy(make_record("int4", ratio=8.0))))
    (tmp_path / "good").mkdir()
    write_json(tmp_path / "good" / "run.json", make_record("int8", ratio=4.0))
    report(tmp_path, None, None, [])
    printed = capsys.readouterr().out
    assert "| int8 |" in printed
    assert "| int4 |" not in printed
    assert (tmp_path / "report" / "report.html").exists()


@pytest.mark.parametrize("status", ["finished", "scored", "failed", "interrupted", "running"])
def test_what_versions_have_written_is_read(status: str, make_record, tmp_path: Path) -> None:
    """0.1 had neither `float16` nor `numerics`; runs that have failed have no numbers."""
    record = make_record("int4") | {"status": status}
    if status not in ("finished", "scored"):
        record |= {"metrics": {}, "size": {}, "latency": {}, "error": "ValueError: no"}
    write_json(tmp_path / "run.json", record)
    read = read_record(tmp_path)
    assert read is not None
    assert (read.folder, read.status, read.version) == (tmp_path, status, VERSION)
    if status in ("finished", "scored"):
        written = read.as_json()
        assert {key: written[key] for key in record} == record
    else:
        assert (read.size, read.latency, read.error) == (None, None, "ValueError: no")
    write_json(tmp_path / "run.json", read.as_json())
    assert read_record(tmp_path) == read


def test_control_characters_of_a_record_are_shown_and_not_obeyed(
    make_record, tmp_path: Path
) -> None:
    record = make_record("int4") | {"status": "failed", "error": "\x1b[2J\nx\u202e\ud800"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    read = read_record(tmp_path)
    assert read is not None
    assert read.error == r"\x1b[2J\nx\u202e\ud800"
