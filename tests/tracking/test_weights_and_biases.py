"""W&B offline: nothing here may reach the network."""

import errno
import json
import logging
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from mmcompress.tracking.results import log_results
from mmcompress.tracking.weights_and_biases import (
    FLUSH_SECONDS,
    finish,
    no_answer,
    wandb_logger,
    wandb_mode,
)


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


def story(folder):
    """What an offline run tells: its run record, config, summary, history and artifacts."""
    records = stored_records(folder)
    (run, *_) = [r.run for r in records if r.HasField("run")]
    config: dict = decoded(run.config.update)
    summary: dict = {}
    history: list = []
    for r in records:
        config |= decoded(r.config.update)
        summary |= decoded(r.summary.update)
        history += [decoded(r.history.item)] if r.HasField("history") else []
    artifacts = [r.request.log_artifact.artifact for r in records if r.HasField("request")]
    artifacts += [r.artifact for r in records if r.HasField("artifact")]
    return run, config, summary, history, {a.type: a for a in artifacts if a.type}


def table(folder, name):
    (path,) = (folder / "files" / "media" / "table").glob(f"{name}_*.json")
    return json.loads(path.read_text())


def test_offline_run_holds_everything(offline, results, tmp_path, caplog, capfd):
    caplog.set_level(logging.INFO)
    logger = wandb_logger(save_dir=tmp_path, group="sweep", name="int4", tags=["t" * 99])
    logger.log_hyperparams({"seed": 0})
    logger.log_metrics({"train/loss": 1.5}, step=3)
    log_results(logger, results)
    finish()
    wandb.teardown()  # Its process flushes the file as it ends, a moment after the run.

    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("mmcompress")]
    assert ours == [
        f"W&B: kept offline (no login); send it with: wandb sync {folder.parent}/offline-run-*"
    ]
    assert capfd.readouterr() == ("", "")

    ledger = table(folder, "ledger")
    assert ledger["columns"] == [
        *["tensor", "modality", "role", "payload", "bytes", "note", "how", "parameters"],
        "part",
    ]
    assert sum(row[4] for row in ledger["data"]) == 15_704
    assert table(folder, "plan")["data"] == [
        ["int4", "q.weight", '{"bits": 4}'],
        ["int4", "k.weight", '{"left_dense": "too small"}'],
    ]
    # The dense model is a level line from the smallest artifact to its own size.
    assert table(folder, "accuracy_vs_size")["data"] == [
        [2.5, "dense", 0.88],
        [20.0, "dense", 0.88],
        [2.5, "compressed", 0.86],
        [5.0, "compressed", 0.87],
        [20.0, "compressed", 0.88],
    ]
    assert len(list((folder / "files" / "media" / "images").glob("*.png"))) == 1

    run, config, summary, history, artifacts = story(folder)
    assert (run.project, run.run_group, run.job_type) == ("mmcompress", "sweep", "compress")
    assert (run.display_name, list(run.tags)) == ("int4", ["t" * 64])
    assert config["compression"] == {"steps": {"int4": {}}}
    assert config["run"]["config_hash"] == "0123456789abcdef"
    assert summary["retrieval/mean_recall"] == 0.86
    assert summary["dense/retrieval/mean_recall"] == 0.88
    assert summary["size/artifact_bytes"] == 2_500_000
    assert summary["size/compression_ratio"] == 8.0
    assert summary["latency/compressed_ms_batch_32"] == 33.0
    assert any(h.get("train/loss") == 1.5 and h["trainer/global_step"] == 3 for h in history)

    dense, compressed = artifacts["model"], artifacts["compressed-model"]
    assert dense.use_after_commit, "the run has used it"
    assert not compressed.use_after_commit, "the run has made it"
    assert dense.name == f"dense-{'d' * 16}"
    assert compressed.name == "int4-0123456789abcdef"
    metadata = json.loads(compressed.metadata)
    assert metadata["dense_sha256"] == json.loads(dense.metadata)["sha256"] == "d" * 64
    entries = {entry.path: entry for entry in compressed.manifest.contents}
    assert set(entries) == {"manifest.json", "model.safetensors"}
    assert entries["model.safetensors"].ref.startswith("file:///")


def test_runs_that_start_from_the_same_weights_point_to_one_artifact(offline, results, tmp_path):
    digests = []
    for place in ("a", "b"):
        logger = wandb_logger(save_dir=tmp_path / place)
        log_results(logger, results)
        finish()
        wandb.teardown()
        (folder,) = (tmp_path / place / "wandb").glob("offline-run-*")
        digests.append(story(folder)[4]["model"].digest)
    assert digests[0] == digests[1]


@pytest.mark.slow
def test_what_a_killed_process_has_sent_is_kept(offline, tmp_path):
    """Config and history lie in the file of a run that never came to its end."""
    code = (
        "import sys, time; from mmcompress.tracking.weights_and_biases import wandb_logger\n"
        "logger = wandb_logger(save_dir=sys.argv[1])\n"
        "logger.log_hyperparams({'seed': 7})\n"
        "logger.log_metrics({'train/loss': 1.5}, step=3)\n"
        "time.sleep(5 * float(sys.argv[2])); print('killed'); sys.stdout.flush(); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path), str(FLUSH_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"killed\n"
        process.kill()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    _, config, _, history, _ = story(folder)
    assert config["seed"] == 7
    assert history[0]["train/loss"] == 1.5


def test_one_job_after_another_makes_two_runs(offline, tmp_path):
    finish()
    ids = []
    for _ in range(2):
        ids.append(wandb_logger(save_dir=tmp_path).version)
        finish()
        assert wandb.run is None
    assert len(set(ids)) == 2
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def test_an_unreachable_server_leaves_the_run_offline(offline, monkeypatch, tmp_path, caplog):
    """Nobody listens on the port of `WANDB_BASE_URL`; W&B itself would wait for half a minute."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    asked = []
    real = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **kw: asked.append(kw["mode"]) or real(**kw))
    wandb_logger(save_dir=tmp_path).log_metrics({"a": 1.0}, step=0)
    finish()
    assert asked == ["offline"]
    (message,) = [m for m in caplog.messages if m.startswith("W&B")]
    assert message.startswith("W&B: kept offline (http://127.0.0.1:9 cannot be reached: ")
    folders = [path for path in (tmp_path / "wandb").glob("*run-*") if not path.is_symlink()]
    assert [path.name.startswith("offline-run-") for path in folders] == [True]


def test_a_server_that_refuses_leaves_no_empty_folder(offline, monkeypatch, tmp_path):
    real = wandb.init

    def init(**kwargs):
        if kwargs["mode"] == "online":
            (tmp_path / "wandb" / "run-20260101_000000-abc123" / "files").mkdir(parents=True)
            raise wandb.Error("no such entity")
        return real(**kwargs)

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr("mmcompress.tracking.weights_and_biases.no_answer", lambda url: None)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    wandb_logger(save_dir=tmp_path)
    folders = [path for path in (tmp_path / "wandb").glob("*run-*") if not path.is_symlink()]
    assert [path.name.startswith("offline-run-") for path in folders] == [True]


def test_any_answer_is_an_answer_and_silence_ends_soon():
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        begin = time.monotonic()
        assert no_answer(url, 0.3) in (
            f"{url} does not answer within 0.3 s",
            f"{url} cannot be reached: timed out",
        )
        assert time.monotonic() - begin < 3

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=refuse)
        thread.start()
        assert no_answer(url, 20.0) is None
        thread.join()


def test_a_full_disk_costs_the_logger_and_not_the_run(offline, monkeypatch, tmp_path, caplog):
    def full(**kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path))

    monkeypatch.setattr(wandb, "init", full)
    logger = wandb_logger(save_dir=tmp_path)
    logger.log_metrics({"a": 1.0}, step=0)
    assert "W&B: not even kept offline ([Errno 28] No space left on device" in caplog.text


def test_an_online_run_goes_on_where_it_was(offline, monkeypatch, tmp_path):
    """What is asked of W&B: the id of the folder that the earlier start has left."""
    asked: list = []
    real = wandb.init

    def init(**kwargs):
        asked.append((kwargs["mode"], kwargs.get("id"), kwargs.get("resume")))
        return real(**kwargs | {"mode": "offline", "id": None, "resume": None})

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr("mmcompress.tracking.weights_and_biases.no_answer", lambda url: None)
    monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    wandb_logger(save_dir=tmp_path)
    finish()
    (tmp_path / "wandb" / "run-20260101_000000-abc123").mkdir()
    wandb_logger(save_dir=tmp_path)
    assert asked == [("online", None, None), ("online", "abc123", "allow")]


def test_jobs_of_a_sweep_are_one_group(offline, monkeypatch, tmp_path):
    choices = {"compression": "int4", "backbone": "mini", "data": "openmoji", "logger": "wandb"}
    place = "mmcompress.tracking.weights_and_biases"
    monkeypatch.setattr(f"{place}.sweep_folder", lambda: Path("runs/sweeps/grid"))
    monkeypatch.setattr(f"{place}.choices", lambda: choices)
    run = wandb_logger(save_dir=tmp_path, tags=["mine"]).experiment
    assert run.group == "grid"
    assert sorted(run.tags) == ["int4", "mine", "mini", "openmoji"]


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
