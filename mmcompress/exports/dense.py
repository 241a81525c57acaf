"""Writing an artifact back as a dense checkpoint of the library that its model comes from."""

from pathlib import Path

from mmcompress.artifact.folder import Artifact


def fill_folder(artifact: Artifact, library: str, folder: Path) -> None:
    """Write what the library loads, with no trace of mmcompress.

    All weights are dense, and those of the artifact bit for bit where it has layers of the
    library's own kind; low-rank and shared layers are multiplied out. Blocks and neurons that are
    gone stay so where the library's config can say it.

    Args:
        library: `open_clip` or `hf`.
        folder: is there and empty.
    Raises:
        ValueError: the model comes from elsewhere, or the library cannot express it.
    """
    check_library(artifact, library)
    artifact.backbone.write_native(folder)


def check_library(artifact: Artifact, library: str) -> None:
    """Refuse a model that comes from elsewhere.

    Raises:
        ValueError: says where it comes from.
    """
    backbone = artifact.backbone
    if backbone.library != library:
        origin = (
            f"of {backbone.library}" if backbone.library else "of no library that could load it"
        )
        hint = f": set --to {backbone.library}" if backbone.library else ": keep the artifact"
        raise ValueError(f"{artifact.folder} holds a model {origin}, not of {library}{hint}")
