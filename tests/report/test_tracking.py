"""W&B offline: nothing here may reach the network."""

import json
import logging
import os
import struct

import pytest
import wandb
from pytorch_lightning.loggers import CSVLogger
from wandb.proto.wandb_internal_pb2 import Record

from mmcompress.report.tracking import finish, log_run, wandb_logger, wandb_mode


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No login, and W&B's own folders inside the test's."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb-own"))
    # If anything did try the network it would fail at once.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    yield
    finish()
    wandb.teardown()


BLOCK, HEADER = 32768, 7


def stored_records(folder):
    """Every protobuf record of an offline run, whose file is a LevelDB log after a 7-byte magic.

    A record is cut into chunks, each (checksum 4, length 2, kind 1, data): kind 1 is whole, 2 to 4
    are first, middle and last. No chunk crosses a block.
    """
    (path,) = folder.glob("*.wandb")
    content = path.read_bytes()
    position, data, records = HEADER, b"", []
    while position < len(content):
        if BLOCK - position % BLOCK < HEADER:
            position += BLOCK - position % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        data += content[position + HEADER : position + HEADER + length]
        position += HEADER + length
        if kind in (1, 4):
            records.append(Record.FromString(data))
            data = b""
    return records


def decoded(items):
    return {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


@pytest.fixture
def local_files(tmp_path):
    from matplotlib.figure import Figure

    Figure(figsize=(1, 1)).savefig(tmp_path / "plot.png")
    (tmp_path / "manifest.json").write_text('{"format_version": 1}')
    return {"plot": tmp_path / "plot.png", "manifest": tmp_path / "manifest.json"}


def test_offline_run_holds_everything(
    offline, make_record, ledger, local_files, tmp_path, caplog, capfd
):
    caplog.set_level(logging.INFO)
    record = make_record("int4", ratio=8.0, recall=0.86)
    logger = wandb_logger(save_dir=tmp_path, group="sweep", name="int4", tags=["t"])
    logger.log_metrics({"train/loss": 1.5}, step=3)
    log_run(logger, record, ledger, **local_files)
    finish()
    wandb.teardown()  # Its process flushes the file as it ends, a moment after the run.

    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("mmcompress")]
    assert ours == [f"W&B: kept offline (no login); send it with: wandb sync {folder}"]
    assert capfd.readouterr() == ("", "")

    (table,) = (folder / "files" / "media" / "table").glob("ledger_*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == [
        *["tensor", "modality", "role", "payload", "bytes", "note", "how", "parameters"]
    ]
    assert sum(row[4] for row in content["data"]) == 15_704
    (points,) = (folder / "files" / "media" / "table").glob("accuracy_vs_size_*.json")
    assert json.loads(points.read_text())["data"] == [
        ["dense", 20.0, 0.88],
        ["compressed", 2.5, 0.86],
    ]
    assert len(list((folder / "files" / "media" / "images").glob("*.png"))) == 1

    records = stored_records(folder)
    (run, *_) = [r.run for r in records if r.HasField("run")]
    assert (run.project, run.run_group, run.job_type) == ("mmcompress", "sweep", "compress")
    assert (run.display_name, list(run.tags)) == ("int4", ["t"])
    config: dict = {}
    summary: dict = {}
    history: list = []
    for r in records:
        config |= decoded(r.config.update)
        summary |= decoded(r.summary.update)
        history += [decoded(r.history.item)] if r.HasField("history") else []
    assert config["compression"] == {"steps": {"int4": {}}}
    assert config["run"]["config_hash"] == "0123456789abcdef"
    assert summary["retrieval/mean_recall"] == 0.86
    assert summary["dense/retrieval/mean_recall"] == 0.88
    assert summary["size/artifact_bytes"] == 2_500_000
    assert summary["size/compression_ratio"] == 8.0
    assert summary["latency/compressed_ms_batch_32"] == 33.0
    assert any(h.get("train/loss") == 1.5 and h["trainer/global_step"] == 3 for h in history)
    names = [r.request.log_artifact.artifact.type for r in records if r.HasField("request")]
    names += [r.artifact.type for r in records if r.HasField("artifact")]
    assert "manifest" in names


def test_one_job_after_another_makes_two_runs(offline, tmp_path):
    finish()
    ids = []
    for _ in range(2):
        ids.append(wandb_logger(save_dir=tmp_path).version)
        finish()
        assert wandb.run is None
    assert len(set(ids)) == 2
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def test_trouble_in_wandb_is_logged_and_costs_nothing(
    offline, make_record, ledger, local_files, tmp_path, caplog
):
    logger = wandb_logger(save_dir=tmp_path)
    local_files["plot"] = tmp_path / "missing.png"
    log_run(logger, make_record("int4"), ledger, **local_files)
    assert "results were not sent" in caplog.text
    assert "run.json" in caplog.text


def test_other_loggers_get_the_numbers(make_record, ledger, local_files, tmp_path):
    logger = CSVLogger(str(tmp_path))
    log_run(logger, make_record("int4", recall=0.86), ledger, **local_files)
    logger.save()
    (path,) = tmp_path.rglob("metrics.csv")
    header, values = path.read_text().splitlines()
    row = dict(zip(header.split(","), values.split(","), strict=True))
    assert float(row["retrieval/mean_recall"]) == 0.86
    assert float(row["size/artifact_bytes"]) == 5_000_000


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": ""}, "offline"),
        ({"WANDB_API_KEY": "x"}, "online"),
        ({"WANDB_IDENTITY_TOKEN_FILE": "x"}, "online"),
        ({"WANDB_API_KEY": "x", "WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "dryrun"}, "offline"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
    ],
)
def test_mode(environment, mode, tmp_path):
    assert wandb_mode({"NETRC": str(tmp_path / "none"), **environment}) == mode


def test_mode_looks_for_the_host_in_netrc(tmp_path, caplog):
    path = tmp_path / "netrc"
    path.write_text("machine api.wandb.ai login user password secret\n")
    path.chmod(0o600)
    environment = {"NETRC": str(path)}
    assert wandb_mode(environment) == "online"
    assert wandb_mode(environment | {"WANDB_BASE_URL": "https://wandb.example.org"}) == "offline"
    path.write_text("machine\n")
    assert wandb_mode(environment) == "offline"
    assert "no W&B login taken from it" in caplog.text


def test_unknown_mode_names_the_known_ones():
    with pytest.raises(ValueError, match="WANDB_MODE='of' must be one of online"):
        wandb_mode({"WANDB_MODE": "of"})
