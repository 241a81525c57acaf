"""The line as a function: what Python code gets that calls it."""

import json
import logging
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException

from mmcompress.config.compose import compose_config
from mmcompress.experiment import run
from mmcompress.records.folder import open_folder
from mmcompress.records.settings import config_hash

# A run of a second or two, without training.
SMALL = [
    "backbone=mlp",
    "data=digits",
    "data.calibration_size=64",
    "objective=cross_entropy",
    "evaluation=accuracy",
    "evaluation.latency.batch_sizes=[1]",
    "trainer=post_training",
    "compression=int8",
    "logger=none",
]


def test_it_gives_back_the_record_and_can_be_called_again(tmp_path: Path) -> None:
    first = run([*SMALL, f"run_dir={tmp_path / 'run'}"])
    assert first.status == "finished"
    assert first.folder == tmp_path / "run"
    assert first.command == " ".join(["python train.py", *SMALL[:5]]) + (
        f" 'evaluation.latency.batch_sizes=[1]' {' '.join(SMALL[6:])} run_dir={tmp_path / 'run'}"
    )
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    assert stored["metrics"]["compressed"] == first.metrics.compressed
    assert stored["config"]["name"] == "int8"
    assert not HydraConfig.initialized()

    # As at the command line: what has finished stays, and the same run gets another folder.
    second = run([*SMALL, f"run_dir={tmp_path / 'run'}"])
    assert second.folder == tmp_path / "run-2"
    assert second.metrics == first.metrics
    assert second.config_hash == first.config_hash


def test_a_composed_configuration_does_as_well(tmp_path: Path) -> None:
    record = run(compose_config(*SMALL, f"run_dir={tmp_path / 'run'}"))
    assert record.config["name"] == "int8"
    assert record.status == "finished"


def test_another_process_in_the_folder_is_left_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = [*SMALL, f"run_dir={tmp_path / 'run'}"]
    held = open_folder(tmp_path / "run", config_hash({}))
    try:
        assert run(words).folder == tmp_path / "run-2"
    finally:
        held.release()


def test_what_fails_is_raised_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    words = [*SMALL, f"run_dir={tmp_path / 'run'}"]
    with monkeypatch.context() as patch:
        patch.setattr("mmcompress.experiment.Artifact.save", full)
        with pytest.raises(OSError, match="No space left"):
            run(words)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["status"], record["error"]) == (
        "failed",
        "OSError: [Errno 28] No space left on device",
    )
    again = run(words)  # goes on in the same folder
    assert (again.folder, again.starts, again.status) == (tmp_path / "run", 2, "finished")
    assert not logging.getLogger().filters


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (["compression=lowrnk"], HydraException, "lowrnk"),
        (["seed=abc"], ValueError, "seed=abc must be a whole number"),
        ("compression=int8", ValueError, "give a list of overrides"),
    ],
)
def test_mistakes_are_exceptions(words: list[str], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        run(words)
    assert not HydraConfig.initialized()


@pytest.mark.slow
def test_a_run_scores_what_onnx_runtime_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights alone are compressed: the scores are those of the dense decode."""
    packages = ("onnxruntime", "onnxscript")
    for package in packages:
        pytest.importorskip(package)
    monkeypatch.setattr("mmcompress.runtime.deployment.PACKAGES", packages)
    dense = run([*SMALL, f"run_dir={tmp_path / 'dense'}", "deployed=null"])
    found = run([*SMALL, f"run_dir={tmp_path / 'onnx'}", "runtime=onnx"])
    assert (dense.runtime, found.runtime) == ("dense", "onnx")
    assert dense.deployed is None
    assert found.deployed is not None
    assert found.deployed.not_measured is None
    for name, value in dense.metrics.compressed.items():
        assert found.metrics.compressed[name] == pytest.approx(value, abs=1e-3), name
