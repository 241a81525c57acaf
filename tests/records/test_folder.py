"""Whose a run folder is, also between processes and after a kill."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mmcompress.records.folder import (
    FolderUnavailable,
    at_work,
    checkpoints_in,
    claim_folder,
    is_scored,
    open_folder,
)
from mmcompress.records.place import job_folder
from mmcompress.system.files import write_json
from tests.report.conftest import make_record

OURS, OTHER = "0" * 16, "1" * 16


def end(folder: Path, status: str) -> None:
    """Write the record of a run that has ended."""
    write_json(folder / "run.json", make_record("int8") | {"status": status, "error": None})


def cut_short(path: Path) -> Path:
    """A run of `OURS` whose process is gone."""
    open_folder(path, OURS).release()
    return path


@contextmanager
def elsewhere(path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the folder."""
    code = (
        "import sys; from pathlib import Path; from mmcompress.records.folder import claim_folder\n"
        "held = claim_folder(Path(sys.argv[1]), sys.argv[2])\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(path), OURS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_new_runs_never_share_a_folder(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "int4"
    held = [open_folder(path, OURS) for _ in range(3)]
    assert [folder.path.name for folder in held] == ["int4", "int4-2", "int4-3"]
    assert [folder.starts for folder in held] == [1, 1, 1]


def test_a_run_that_was_cut_short_goes_on_in_its_folder(tmp_path: Path) -> None:
    path = cut_short(tmp_path / "run")
    checkpoints = path / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "last.ckpt").touch()
    for left in (checkpoints / ".last.ckpt.x7", path / ".run.json.x7", path / "traceback.txt"):
        left.touch()
    for left in (path / ".artifact.0a", path / "artifact"):
        left.mkdir()
        (left / "model.safetensors").touch()
    (path / "run.log").write_text("so far")
    held = open_folder(path, OURS)
    assert (held.path, held.starts) == (path, 2)
    left = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert left == {".lock", "claim.json", "run.log", "checkpoints/last.ckpt"}
    assert checkpoints_in(path) == [checkpoints / "last.ckpt"]


def test_a_failed_run_is_taken_up_again_and_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    path = cut_short(tmp_path / "run")
    end(path, "failed")
    held = open_folder(path, OURS)
    assert held.path == path
    assert not (path / "run.json").exists()
    held.release()
    end(path, "finished")
    assert open_folder(path, OURS).path.name == "run-2"
    with pytest.raises(FolderUnavailable, match="has finished"):
        claim_folder(path, OURS)
    assert (path / "run.json").exists()


def test_results_that_are_complete_are_kept_for_their_report(tmp_path: Path) -> None:
    path = cut_short(tmp_path / "run")
    end(path, "scored")
    (path / "artifact").mkdir()
    (path / "plan.json").write_text("{}")
    (path / ".artifact.0a").mkdir()
    assert is_scored(path)
    open_folder(path, OURS).release()
    left = {entry.name for entry in path.iterdir()}
    assert left == {".lock", "claim.json", "run.json", "plan.json", "artifact"}

    (path / "artifact").rmdir()
    assert not is_scored(path)
    open_folder(path, OURS).release()
    assert {entry.name for entry in path.iterdir()} == {".lock", "claim.json"}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"status": "fini', b"\xff\xfe", b'{"status": 3}']
)
def test_a_record_that_cannot_be_read_is_set_aside(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = cut_short(tmp_path / "run")
    (path / "run.json").write_bytes(content)
    held = open_folder(path, OURS)
    assert (held.path, held.starts) == (path, 2)
    assert not (path / "run.json").exists()
    assert (path / "run.json.damaged").read_bytes() == content
    (message,) = caplog.messages
    assert message.startswith(f"{path / 'run.json'} is damaged (")


@pytest.mark.parametrize("content", [b"", b"[]", b'{"config_hash": "', b"\xff", b'{"starts": "x"}'])
def test_a_claim_that_cannot_be_read_is_named(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The folder of a job has its configuration in its name; others have not."""
    job = cut_short(tmp_path / f"int4-seed0-{OURS}")
    (job / "claim.json").write_bytes(content)
    held = claim_folder(job, OURS)
    assert held.starts == 1
    held.release()
    assert json.loads((job / "claim.json").read_text())["config_hash"] == OURS
    assert caplog.messages[-1].startswith(f"{job / 'claim.json'} is damaged (")

    caplog.clear()
    single = cut_short(tmp_path / "run")
    (single / "claim.json").write_bytes(content)
    assert open_folder(single, OURS).path.name == "run-2"
    (message,) = caplog.messages
    assert message.startswith(f"{single / 'claim.json'} cannot be read")
    assert (single / "claim.json").read_bytes() == content


def test_other_configurations_and_other_things_are_left_alone(tmp_path: Path) -> None:
    path = cut_short(tmp_path / "run")
    with pytest.raises(FolderUnavailable, match="another configuration"):
        claim_folder(path, OTHER)
    assert open_folder(path, OTHER).path.name == "run-2"
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "1.png").touch()
    with pytest.raises(FolderUnavailable, match="something else"):
        claim_folder(foreign, OURS)
    assert [p.name for p in foreign.iterdir()] == ["1.png"]


def test_a_lock_ends_with_its_process_even_when_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    assert at_work(path) is None
    with elsewhere(path) as process:
        assert f"process {process.pid} on " in str(at_work(path))
        with pytest.raises(FolderUnavailable, match=f"process {process.pid} on "):
            claim_folder(path, OURS)
        process.kill()
        process.wait()
        assert at_work(path) is None
        assert claim_folder(path, OURS).starts == 2
    assert json.loads((path / "claim.json").read_text())["config_hash"] == OURS


def test_an_unwritable_run_folder_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "run"
    with pytest.raises(ValueError, match="choose another with run_dir=PATH") as caught:
        open_folder(path, OURS)
    assert str(caught.value) == (
        f"run_dir={path} cannot be written (Not a directory): choose another with run_dir=PATH"
    )


def test_jobs_that_differ_in_anything_have_folders_of_their_own() -> None:
    config = {"name": "int4", "seed": 1}
    assert job_folder(Path("x"), config, OURS) == job_folder(Path("x"), dict(config), OURS)
    others = [(config | {"seed": 2}, OURS), (config | {"name": "b"}, OURS), (config, OTHER)]
    assert len({job_folder(Path("x"), *other) for other in [(config, OURS), *others]}) == 4
