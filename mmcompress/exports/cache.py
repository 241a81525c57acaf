"""Exports by content, in the user cache directory: the same artifact is exported once."""

import hashlib
import logging
from functools import cache
from importlib.metadata import version
from pathlib import Path

import platformdirs
from filelock import FileLock

from mmcompress.artifact.folder import Artifact
from mmcompress.exports.onnx.folder import write_folder
from mmcompress.format.manifest import MANIFEST_FILE
from mmcompress.inputs.export import is_export

log = logging.getLogger(__name__)

ROOMS = ("exports", "inputs", "backbones", "modules")
"""Whose code decides what an export holds."""


def exported(
    artifact: Artifact, *, activations: str | None = None, cache_dir: Path | None = None
) -> Path:
    """The folder of an artifact's ONNX export, written unless it is there.

    Args:
        artifact: of `Artifact.load`.
        activations: of `write_folder`.
        cache_dir: where folders lie; `onnx` in the user cache directory when None.
    Raises:
        ValueError: it cannot be exported.
    """
    place = cache_dir or platformdirs.user_cache_path("mmcompress") / "onnx"
    folder = place / _key((artifact.folder / MANIFEST_FILE).read_bytes(), activations)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not is_export(folder):
            log.info("exporting %s for ONNX Runtime", artifact.folder)
            write_folder(artifact, folder, activations=activations)
        log.debug("the export of %s lies in %s", artifact.folder, folder)
    return folder


def _key(manifest: bytes, activations: str | None) -> str:
    """SHA-256 over all that the export depends on, 32 hexadecimal digits of it.

    The artifact's manifest holds the checksums of its other files.
    """
    digest = hashlib.sha256(manifest)
    for part in (activations, version("torch"), version("onnxscript"), _code()):
        digest.update(f"\n{part}".encode())
    return digest.hexdigest()[:32]


@cache
def _code() -> str:
    """SHA-256 over the code of `ROOMS`."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for room in ROOMS:
        for file in sorted((root / room).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
