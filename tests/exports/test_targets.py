"""Exports, loaded by other libraries in processes of their own."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

import mmcompress as mmc
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.hf.clip import HFClip
from mmcompress.compression.recipe import Recipe
from mmcompress.exports import check
from mmcompress.exports.summary import Contained, containers, lines
from mmcompress.exports.targets import TARGETS, export
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.testing.zoo.hf import build_clip


def of_family(name: str, folder: Path) -> Artifact:
    (folder / "model").mkdir()
    compressed = Recipe({}).apply(FAMILIES[name].build(folder / "model"), [])
    return Artifact.load(compressed.save(folder / "artifact").folder)


@pytest.mark.parametrize(
    ("family", "target"),
    [
        ("hf/clip", "hf"),
        pytest.param("open_clip/vit", "open_clip", marks=pytest.mark.slow),
        pytest.param("open_clip/coca", "open_clip", marks=pytest.mark.slow),
        pytest.param("hf/siglip", "hf", marks=pytest.mark.slow),
        pytest.param("hf/clap", "hf", marks=pytest.mark.slow),
        pytest.param("hf_text/bert", "hf", marks=pytest.mark.slow),
        pytest.param("hf/clip", "onnx", marks=pytest.mark.slow),
        pytest.param("open_clip/vit", "onnx", marks=pytest.mark.slow),
        pytest.param("mlp", "onnx", marks=pytest.mark.slow),
    ],
)
def test_the_other_library_gives_the_same(family: str, target: str, tmp_path: Path) -> None:
    artifact = of_family(family, tmp_path)
    found = export(artifact, target, tmp_path / "out", test=True).difference
    assert found is not None
    assert {*found.largest} == {*artifact.backbone.modalities}
    assert max(found.largest.values()) < 1e-5
    assert (tmp_path / "out").is_dir()


def test_a_difference_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other library loads weights that are not the artifact's."""
    artifact = Artifact(tmp_path, {}, build_clip(seed=0))
    other, write = build_clip(seed=1), HFClip.write_native
    monkeypatch.setattr(HFClip, "write_native", lambda self, folder: write(other, folder))
    with pytest.raises(ValueError, match=r"image embeddings differ by up to .*, more than 0.0001"):
        export(artifact, "hf", tmp_path / "out", test=True)
    assert [*tmp_path.iterdir()] == []


def test_what_cannot_be_loaded_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact = Artifact(tmp_path, {}, build_clip())
    monkeypatch.setattr(HFClip, "write_native", lambda self, folder: None)
    with pytest.raises(ValueError, match=r"the export cannot be loaded again \(.*\): nothing is"):
        export(artifact, "hf", tmp_path / "out", test=True)
    assert [*tmp_path.iterdir()] == []


def test_refusals(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, {}, build_clip())
    with pytest.raises(
        ValueError,
        match="to='gguf' must be one of open_clip, hf, compressed-tensors, openvino, onnx",
    ):
        export(artifact, "gguf", tmp_path / "out")
    with pytest.raises(ValueError, match="activations='int8' is not for an export to hf: set --to"):
        export(artifact, "hf", tmp_path / "out", activations="int8")
    with pytest.raises(ValueError, match="activations='int3' is not for an export to onnx: "):
        export(artifact, "onnx", tmp_path / "out", activations="int3")
    with pytest.raises(ValueError, match="holds a model of hf, not of open_clip: set --to hf"):
        mmc.export(artifact, to="open_clip", out=tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out already exists: remove it"):
        export(artifact, "onnx", tmp_path / "out")


def test_every_target_has_a_reader() -> None:
    for target in TARGETS.values():
        assert (check.READERS / f"{target.reader}.py").is_file()


def test_static_rounding_needs_data(tmp_path: Path) -> None:
    artifact = Artifact(tmp_path, {}, build_clip())
    with pytest.raises(ValueError, match="rounds between ends that data show: add data, such as"):
        export(artifact, "onnx", tmp_path / "out", activations="static_int8")
    with pytest.raises(ValueError, match="data is looked at for activations='static_int8' alone"):
        export(artifact, "onnx", tmp_path / "out", batches=[])


def test_containers(tmp_path: Path) -> None:
    tensors = [
        Contained("MatMulNBits", 60),
        Contained("float16", 10, exact=False, decoded=True),
        Contained("MatMulNBits", 30),
    ]
    manifest = {"tensors": [asdict(tensor) for tensor in tensors]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert containers(tmp_path) == tensors
    assert lines(tensors) == [
        "MatMulNBits: 2 tensors, 90 bytes (90.0%)",
        "float16: 1 tensors, 10 bytes (10.0%), not exact",
    ]
