"""Writing an artifact back as a dense checkpoint of the library that its model comes from."""

from pathlib import Path
from typing import TYPE_CHECKING

from mmcompress.system.files import folder_atomically

if TYPE_CHECKING:
    from mmcompress.artifact.folder import Artifact

LOADED_BY = {
    "open_clip": 'open_clip.create_model_and_transforms("local-dir:{}")',
    "hf": 'transformers.AutoModel.from_pretrained("{}")',
}
"""Library → what reads the folder."""


def export(artifact: "Artifact", library: str, folder: Path) -> None:
    """Write a folder that the library loads, with no trace of mmcompress.

    All weights are dense, and those of the artifact bit for bit where it has layers of the
    library's own kind; low-rank and shared layers are multiplied out. Blocks and neurons that are
    gone stay so where the library's config can say it.

    Args:
        library: a key of `LOADED_BY`.
        folder: to create.
    Raises:
        ValueError: the model comes from elsewhere, the library cannot express it, or `folder`
            exists.
    """
    backbone = artifact.backbone
    if backbone.library != library:
        origin = (
            f"of {backbone.library}" if backbone.library else "of no library that could load it"
        )
        hint = f": set --to {backbone.library}" if backbone.library else ": keep the artifact"
        raise ValueError(f"{artifact.folder} holds a model {origin}, not of {library}{hint}")
    with folder_atomically(folder) as temporary:
        backbone.write_native(temporary)
