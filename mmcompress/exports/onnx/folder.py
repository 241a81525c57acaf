"""The folder of an ONNX export: graphs, tokenizer, and a manifest that says how to feed them."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.capabilities import Encoder, encoder
from mmcompress.exports.inputs import write_inputs
from mmcompress.exports.onnx.towers import Tower, write_dense_towers, write_towers
from mmcompress.exports.rounding import Ranges
from mmcompress.inputs.export import FILE, FORMAT, VERSION
from mmcompress.system.files import folder_atomically, write_json


def write_folder(
    artifact: Artifact,
    folder: Path,
    *,
    activations: str | None = None,
    ranges: Ranges | None = None,
    runtime: str = "onnx",
) -> None:
    """Write what `mmcompress.runtime.onnx` loads.

    Args:
        artifact: of `Artifact.load`.
        folder: to create.
        activations, ranges, runtime: of `write_towers`.
    Raises:
        ValueError: a graph or the preparation of its inputs cannot be expressed, or `folder`
            exists.
    """
    with folder_atomically(folder) as temporary:
        fill_folder(
            artifact,
            temporary,
            activations=activations,
            ranges=ranges,
            runtime=runtime,
        )


def fill_folder(
    artifact: Artifact,
    folder: Path,
    *,
    activations: str | None = None,
    ranges: Ranges | None = None,
    runtime: str = "onnx",
) -> None:
    """The same, into a folder that is there and empty."""
    model = encoder(artifact.backbone, "an ONNX export needs", "keep the artifact")
    prepare = write_inputs(model, folder)  # first: it takes less time, and may refuse
    towers = write_towers(artifact, folder, activations=activations, ranges=ranges, runtime=runtime)
    _write_manifest(model, folder, prepare, towers, artifact.manifest["run"], activations)


def write_dense_folder(backbone: Backbone, folder: Path) -> None:
    """The same of a dense model, all in float32, to compare with.

    Args:
        backbone: with its weights.
        folder: to create.
    Raises:
        ValueError: of `write_folder`.
    """
    with folder_atomically(folder) as temporary:
        model = encoder(backbone, "an ONNX export needs", "keep the model")
        prepare = write_inputs(model, temporary)
        towers = write_dense_towers(model, temporary)
        _write_manifest(model, temporary, prepare, towers, {}, None)


def _write_manifest(
    model: Encoder,
    folder: Path,
    prepare: Mapping[str, dict[str, Any]],
    towers: Sequence[Tower],
    run: Mapping[str, Any],
    activations: str | None,
) -> None:
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "runtime": "onnx",
        "producer": f"mmcompress {version('mmcompress')}",
        "run": dict(run),
        "activations": activations,
        "logit_scale": model.logit_scale.item(),
        "towers": {tower.modality: _described(tower, prepare[tower.modality]) for tower in towers},
        "tensors": [
            {"tower": tower.modality} | asdict(row) for tower in towers for row in tower.rows
        ],
        "files": {file.name: identity(file) for file in sorted(folder.iterdir())},
    }
    write_json(folder / FILE, manifest)


def _described(tower: Tower, prepare: dict[str, Any]) -> dict[str, Any]:
    return {
        "file": tower.file,
        "inputs": [asdict(feed) for feed in tower.inputs],
        "output": asdict(tower.output),
        "rounds_inputs": tower.rounds_inputs,
        "prepare": prepare,
    }


def identity(file: Path) -> dict[str, Any]:
    """Size and checksum of a file, as a manifest holds them."""
    with file.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256")
    return {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}
