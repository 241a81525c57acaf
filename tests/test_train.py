"""The program as a user meets it: train.py, then `mmcompress inspect` and `mmcompress evaluate`."""

import json
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPModel

from mmcompress.artifact.dense import dense_checksum
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.cli import inspect, score, write_export
from mmcompress.records.record import read_record
from mmcompress.report.details import with_ledger
from mmcompress.system.locations import project_path

# A fine-tune of two steps on the embedded backbone and data.
SHORT = ["trainer.max_steps=2", "data.batch_size=16", "data.calibration_size=32", "logger=none"]


def command(*arguments: str | Path) -> str:
    """Output of `mmcompress …` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "mmcompress.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def run_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(*overrides: str) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["train.py", *overrides])
        runpy.run_path(str(project_path("train.py")), run_name="__main__")

    return run


def test_the_whole_line(run_train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run_train("compression=lowrank_int8", *SHORT, f"run_dir={run}")

    record = json.loads((run / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["seed"] == 0
    assert record["dense_sha256"] == dense_checksum(HFClip.mini().model)
    assert record["data"]["test"] == {"items": 500, "left_out": {}}
    dense, compressed = record["metrics"]["dense"], record["metrics"]["compressed"]
    assert dense.keys() == compressed.keys()
    assert {"retrieval/mean_r@1", "retrieval/i2t_r@1", "zeroshot/subgroup_acc@1"} <= dense.keys()
    artifact = Artifact.load(run / "artifact")
    assert record["size"]["artifact_bytes"] == artifact.bytes
    assert artifact.bytes == sum(row.bytes for row in artifact.ledger())
    assert artifact.bytes == sum(row["bytes"] for row in record["ledger"])
    # A report on a run of an earlier version reads it from the artifact.
    whole = read_record(run)
    assert whole is not None
    assert with_ledger(replace(whole, ledger=None)) == whole
    assert record["size"]["compression_ratio"] > 6
    assert record["latency"]["compressed_ms"].keys() == {"1", "32"}
    assert record["size"]["coverage"].keys() == {"lowrank", "int8"}
    assert (run / "accuracy_vs_size.png").stat().st_size > 10_000
    assert (run / "config.yaml").exists()

    table = capsys.readouterr().out
    for shown in ("retrieval/mean_r@1", "compression_ratio", "bits_per_weight", "batch 32"):
        assert shown in table
    assert str(run / "artifact") in table.replace("\n", "")

    # A new process scores the artifact the same, to the last digit.
    again = json.loads(command("evaluate", run / "artifact", "--json", "data=openmoji"))
    assert again == compressed
    inspect(run / "artifact", [])
    ledger = capsys.readouterr().out
    assert f"{artifact.bytes:,}" in ledger
    assert "position" in ledger

    # The library alone reads what is written back; low-rank layers are multiplied out.
    write_export(
        run / "artifact", "hf", None, activations=None, target=None, test=False, overrides=[]
    )
    assert "transformers" in capsys.readouterr().out
    exported = CLIPModel.from_pretrained(run / "artifact_hf").eval()
    ids = artifact.backbone.tokenize(["a red heart"])
    with torch.no_grad():
        found = exported.get_text_features(input_ids=ids).pooler_output
        torch.testing.assert_close(found, artifact.backbone.encode_text(ids), rtol=1e-3, atol=1e-4)


def test_post_training_takes_no_step(run_train, tmp_path: Path) -> None:
    run_train("compression=int8", "trainer=post_training", *SHORT[1:], f"run_dir={tmp_path / 'r'}")
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["config"]["trainer"]["max_steps"] == 0
    assert record["latency"]["compressed_ms"] is None
    assert "decoded" in record["latency"]["no_speedup"]
    assert not list((tmp_path / "r").glob("checkpoints/*"))


@pytest.mark.slow
def test_data_with_labels_alone(
    run_train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The line as a user of class folders has it: prompts train, and nothing is looked for."""
    for index in range(12):
        split = "test" if index < 4 else "train"
        folder = tmp_path / "data" / split / ("red", "blue")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        color = ((200 + index, 0, 0), (0, 0, 200 + index))[index % 2]
        Image.new("RGB", (16, 16), color).save(folder / f"{index}.png")
    run = tmp_path / "run"
    options = ["data=image_folder", f"data.root={tmp_path / 'data'}", "data.num_workers=0"]
    run_train("compression=int4", *options, *SHORT, "evaluation=classification", f"run_dir={run}")
    record = json.loads((run / "run.json").read_text())
    assert set(record["metrics"]["compressed"]) == {
        "zeroshot/acc@1",
        "zeroshot/balanced_acc@1",
        "linear_probe/acc@1",
        "agreement/image_cosine",
        "agreement/image_neighbour_r@1",
    }
    assert "text left out" in capsys.readouterr().out


def test_a_classifier_is_trained_and_then_quantized(run_train, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_train("experiment=dense_int8", "logger=none", f"run_dir={run}")
    record = json.loads((run / "run.json").read_text())
    dense, compressed = (record["metrics"][k]["accuracy/acc@1"] for k in ("dense", "compressed"))
    assert dense > 0.85
    assert compressed > dense - 0.02
    assert record["size"]["compression_ratio"] > 3.9


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["compression.steps.lowrank.role='mpl.*'"], "matched 0 of 66 targets"),
        (["compression.steps.lowrank.rank_ratio=0"], "rank_ratio=0 must lie in"),
        (["compression.steps.lowrank.rank_ratio=1.1"], "rank_ratio=1.1 must lie in"),
        (["compression=int8", "compression.steps.int8.bits=1.5"], "bits=1.5 must be"),
        (["compression=int4", "compression.steps.int4.group_size=10"], "does not divide the 192"),
        (["compression=magnitude", "compression.steps.magnitude.sparsity=1.0"], "sparsity=1.0"),
        (["evaluation.split=tset"], "choose one of train, val, test"),
        (["data.batch_size=0"], "batch_size=0 must be at least 1"),
        (["resume=nowhere.ckpt"], "resume=nowhere.ckpt cannot be read"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_leaves_nothing(
    overrides: list[str], message: str, run_train, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_train(*overrides, "logger=none", f"run_dir={tmp_path / 'run'}")
    assert str(stopped.value).startswith("error: ")
    assert message in str(stopped.value)
    assert "\n" not in str(stopped.value)
    assert not list(tmp_path.iterdir()), "something was left behind"


def test_a_sweep_is_not_started_again_by_every_process(
    run_train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="1 of 1 jobs failed"):
        run_train("-m", "trainer=ddp_cpu", "compression=int8", *SHORT)
    assert "run the jobs one by one without -m" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("run.json"))) == 1


def test_unwritable_run_folder(run_train, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="choose another with run_dir=PATH"):
        run_train("compression=int8", "logger=none", f"run_dir={tmp_path / 'file' / 'run'}")


@pytest.mark.parametrize("override", ["compression=nope", "backbone=nope", "data.color=red"])
def test_unknown_choice_or_key(override: str, run_train, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^error: .*; choose one of "):
        run_train(override)
    assert not list(tmp_path.iterdir())


def test_foreign_artifact_is_refused_by_the_command_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmcompress.cli", "inspect", str(tmp_path / "none")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    with pytest.raises(SystemExit, match=r"^error: .* is no folder"):
        score(tmp_path / "none", [])
