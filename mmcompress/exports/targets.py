"""What an artifact can be exported to, by the name that `mmcompress export --to` takes.

Heavy modules are imported where they are used: the command's `--help` lists the names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmcompress.system.files import check_new, folder_atomically

if TYPE_CHECKING:
    from mmcompress.artifact.folder import Artifact
    from mmcompress.exports.check import Difference


def _library(name: str) -> Callable[["Artifact", Path, str | None], None]:
    def fill(artifact: "Artifact", folder: Path, activations: str | None) -> None:
        from mmcompress.exports.dense import fill_folder

        fill_folder(artifact, name, folder)

    return fill


def _onnx(artifact: "Artifact", folder: Path, activations: str | None) -> None:
    from mmcompress.exports.onnx.folder import fill_folder

    fill_folder(artifact, folder, activations=activations)


@dataclass(frozen=True)
class Target:
    """One format.

    Attributes:
        loaded_by: what reads the folder, `{}` in its place.
        fill: writes the files of an artifact into an empty folder.
        reader: of `mmcompress.exports.readers`: loads them by other libraries alone.
        activations: what `--activations` may be.
    """

    loaded_by: str
    fill: Callable[["Artifact", Path, str | None], None]
    reader: str
    activations: tuple[str, ...] = ()


TARGETS = {
    "open_clip": Target(
        'open_clip.create_model_and_transforms("local-dir:{}")',
        _library("open_clip"),
        "with_open_clip",
    ),
    "hf": Target(
        'transformers.AutoModel.from_pretrained("{}")', _library("hf"), "with_transformers"
    ),
    "onnx": Target(
        'mmcompress.runtime.onnx.OnnxModel("{}"), which needs no torch',
        _onnx,
        "with_onnxruntime",
        activations=("int8",),
    ),
}


def target_of(name: str) -> Target:
    """The target of a name.

    Raises:
        ValueError: there is none; names those there are.
    """
    if name not in TARGETS:
        raise ValueError(f"to={name!r} must be one of {', '.join(TARGETS)}")
    return TARGETS[name]


def export(
    artifact: "Artifact",
    target: str,
    folder: Path,
    *,
    activations: str | None = None,
    test: bool = False,
) -> "Difference | None":
    """Write a folder for another library or runtime; all of it appears, or nothing.

    Args:
        artifact: of `Artifact.load`.
        target: a key of `TARGETS`.
        folder: to create.
        activations: `int8` makes the inputs of linear layers integers as well, where the target
            can.
        test: load what was written with the other library, in a process of its own, and compare.
    Returns:
        How far its embeddings are from the artifact's; None without `test`.
    Raises:
        ValueError: the target cannot express the model, what it loads differs, or `folder` exists.
    """
    chosen = target_of(target)
    if activations is not None and activations not in chosen.activations:
        able = [name for name, other in TARGETS.items() if activations in other.activations]
        fix = f"set --to {' or '.join(able)}" if able else "int8 is what there is, for onnx"
        raise ValueError(f"activations={activations!r} is not for an export to {target}: {fix}")
    check_new(folder)  # before anything that takes time
    with folder_atomically(folder) as temporary:
        chosen.fill(artifact, temporary, activations)
        if not test:
            return None
        from mmcompress.exports.check import compare

        return compare(artifact, temporary, chosen.reader, activations=activations)
