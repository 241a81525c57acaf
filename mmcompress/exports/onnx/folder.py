"""The folder of an ONNX export: graphs, tokenizer, and a manifest that says how to feed them."""

import hashlib
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.capabilities import encoder
from mmcompress.exports.inputs import write_inputs
from mmcompress.exports.onnx.towers import Tower, write_towers
from mmcompress.inputs.export import FILE, FORMAT, VERSION
from mmcompress.system.files import folder_atomically, write_json


def write_folder(artifact: Artifact, folder: Path, *, activations: str | None = None) -> None:
    """Write what `mmcompress.runtime.onnx` loads.

    Args:
        artifact: of `Artifact.load`.
        folder: to create.
        activations: of `write_towers`.
    Raises:
        ValueError: a graph or the preparation of its inputs cannot be expressed, or `folder`
            exists.
    """
    with folder_atomically(folder) as temporary:
        fill_folder(artifact, temporary, activations=activations)


def fill_folder(artifact: Artifact, folder: Path, *, activations: str | None = None) -> None:
    """The same, into a folder that is there and empty."""
    model = encoder(artifact.backbone, "an ONNX export needs", "keep the artifact")
    prepare = write_inputs(model, folder)
    towers = write_towers(artifact, folder, activations=activations)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "runtime": "onnx",
        "producer": f"mmcompress {version('mmcompress')}",
        "run": artifact.manifest["run"],
        "activations": activations,
        "logit_scale": model.logit_scale.item(),
        "towers": {tower.modality: _described(tower, prepare[tower.modality]) for tower in towers},
        "tensors": [
            {"tower": tower.modality} | asdict(row) for tower in towers for row in tower.rows
        ],
        "files": {file.name: _identity(file) for file in sorted(folder.iterdir())},
    }
    write_json(folder / FILE, manifest)


def _described(tower: Tower, prepare: dict[str, Any]) -> dict[str, Any]:
    return {
        "file": tower.file,
        "inputs": [asdict(feed) for feed in tower.inputs],
        "output": asdict(tower.output),
        "prepare": prepare,
    }


def _identity(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256")
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}
