"""Exports by content, in the user cache directory: the same artifact is exported once."""

import hashlib
import json
import logging
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import platformdirs
from filelock import FileLock

from mmcompress.artifact.dense import dense_checksum
from mmcompress.artifact.folder import Artifact
from mmcompress.backbones.base import Backbone
from mmcompress.exports.onnx.folder import write_dense_folder, write_folder
from mmcompress.exports.openvino import write_openvino
from mmcompress.format.manifest import MANIFEST_FILE
from mmcompress.inputs.export import is_export

log = logging.getLogger(__name__)

ROOMS = ("exports", "inputs", "backbones", "modules")
"""Whose code decides what an export holds."""


def exported(
    artifact: Artifact,
    *,
    runtime: str = "onnx",
    activations: str | None = None,
    cache_dir: Path | None = None,
) -> Path:
    """The folder of an artifact's export, written unless it is there.

    Args:
        artifact: of `Artifact.load`.
        runtime: `onnx` or `openvino`.
        activations: of `write_folder`, for `onnx`.
        cache_dir: where folders lie; `onnx` in the user cache directory when None.
    Raises:
        ValueError: it cannot be exported.
    """
    # The manifest holds the checksums of the artifact's other files.
    manifest = (artifact.folder / MANIFEST_FILE).read_text("utf-8")
    if runtime == "openvino":
        key = _key(runtime, version("openvino"), manifest)
        return _made(key, lambda folder: write_openvino(artifact, folder), cache_dir)
    key = _key(activations, manifest)
    return _made(
        key, lambda folder: write_folder(artifact, folder, activations=activations), cache_dir
    )


def exported_dense(backbone: Backbone, *, cache_dir: Path | None = None) -> Path:
    """The same of a dense model, all of it in float32.

    Args:
        backbone: with its weights.
        cache_dir: of `exported`.
    Raises:
        ValueError: it cannot be exported.
    """
    key = _key(dense_checksum(backbone.model), backbone.adapter, backbone.spec)
    return _made(key, lambda folder: write_dense_folder(backbone, folder), cache_dir)


def _made(key: str, write: Callable[[Path], None], cache_dir: Path | None) -> Path:
    place = cache_dir or platformdirs.user_cache_path("mmcompress") / "onnx"
    place.mkdir(parents=True, exist_ok=True)
    folder = place / key
    with FileLock(f"{folder}.lock"):
        if not is_export(folder):
            log.info("exporting for the runtime")
            write(folder)
        log.debug("the export lies in %s", folder)
    return folder


def _key(*parts: Any) -> str:
    """SHA-256 over all that an export depends on, 32 hexadecimal digits of it."""
    digest = hashlib.sha256()
    for part in (*parts, version("torch"), version("onnxscript"), _code()):
        digest.update(json.dumps(part, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()[:32]


@cache
def _code() -> str:
    """SHA-256 over the code of `ROOMS`."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for room in ROOMS:
        for file in sorted((root / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
