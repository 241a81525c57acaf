from pathlib import Path

from mmcompress.artifact.folder import artifact_folder


def test_the_folder_of_a_run_stands_for_its_artifact(tmp_path: Path) -> None:
    artifact = tmp_path / "run" / "artifact"
    assert artifact_folder(tmp_path / "run") == tmp_path / "run"  # and is refused by that name
    artifact.mkdir(parents=True)
    (artifact / "manifest.json").write_text("{}")
    assert artifact_folder(tmp_path / "run") == artifact
    assert artifact_folder(artifact) == artifact
