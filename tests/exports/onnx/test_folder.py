"""An export's folder: what its manifest says, what it refuses, and that it is made once."""

import json
import logging
from pathlib import Path

import pytest

from mmcompress.artifact.folder import Artifact
from mmcompress.compression.recipe import Recipe
from mmcompress.exports.cache import exported
from mmcompress.testing.zoo.families import FAMILIES
from mmcompress.testing.zoo.hf import build_clip

pytest.importorskip("onnxscript")


def stored(folder: Path) -> Artifact:
    compressed = Recipe({}).apply(build_clip(), [])
    return Artifact.load(compressed.save(folder).folder)


def test_manifest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mmcompress.exports.cache")
    artifact = stored(tmp_path / "artifact")
    folder = exported(artifact, cache_dir=tmp_path / "cache")
    assert exported(artifact, cache_dir=tmp_path / "cache") == folder
    told = [message for message in caplog.messages if message.startswith("exporting")]
    assert len(told) == 1, "it is made once"
    manifest = json.loads((folder / "manifest.json").read_bytes())
    assert (manifest["format"], manifest["version"]) == ("mmcompress-export", 1)
    assert manifest["logit_scale"] == pytest.approx(artifact.backbone.logit_scale.item())
    assert {*manifest["files"]} == {"image.onnx", "text.onnx", "tokenizer.json"}
    for name, entry in manifest["files"].items():
        assert entry["bytes"] == (folder / name).stat().st_size
    image, text = manifest["towers"]["image"], manifest["towers"]["text"]
    assert [step["op"] for step in image["prepare"]["steps"]] == [
        *("resize", "crop", "rescale", "normalize")
    ]
    assert image["inputs"][0]["shape"] == [None, 3, 32, 32]
    assert (text["prepare"]["tokenizer"], text["inputs"][0]["dtype"]) == ("tokenizer.json", "int64")
    assert {row["tower"] for row in manifest["tensors"]} == {"image", "text"}


def test_nothing_is_left_of_what_is_refused(tmp_path: Path) -> None:
    backbone = FAMILIES["custom"].build(tmp_path)
    artifact = Recipe({}).apply(backbone, []).save(tmp_path / "artifact")
    with pytest.raises(ValueError, match="how this model prepares its inputs cannot be exported"):
        exported(artifact, cache_dir=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]
