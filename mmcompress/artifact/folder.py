"""A compressed model on disk: `model.safetensors`, `manifest.json`, and the tokenizer beside them.

artifact = Artifact.save(folder, backbone, structure=…, encodings=…, …)
artifact = Artifact.load(folder)
artifact.backbone.encode("image", pixels)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from mmcompress.artifact.encoding import Encoding
from mmcompress.artifact.ledger import LedgerRow, list_rows, summarize_size
from mmcompress.artifact.load import read_backbone, read_manifest, read_skeleton
from mmcompress.artifact.save import write_artifact
from mmcompress.artifact.skeleton import Skeleton
from mmcompress.backbones.base import Backbone
from mmcompress.format.errors import ArtifactError
from mmcompress.format.manifest import MANIFEST_FILE, Manifest, artifact_folder, files_of
from mmcompress.format.writer import MOST_BYTES
from mmcompress.system.imports import collector_paused


@dataclass(frozen=True)
class Artifact:
    """One artifact.

    Attributes:
        folder: where it lies.
        manifest: content of `manifest.json`.
        backbone: the model in it; on the meta device, without weights, after `read`.
    """

    folder: Path
    manifest: Manifest
    backbone: Backbone

    @classmethod
    def save(
        cls,
        folder: Path,
        backbone: Backbone,
        *,
        structure: Sequence[Mapping[str, Any]],
        encodings: Mapping[str, Encoding],
        reasons: Mapping[str, str],
        dense_bytes: int,
        dense_parameters: int,
        dense_dtype: str = "float32",
        run: Mapping[str, Any],
        most_bytes: int = MOST_BYTES,
    ) -> Self:
        """Write `backbone` to `folder`, which must not exist; it appears complete or not at all.

        Args:
            folder: to create.
            backbone: baked: ordinary modules, no parametrization left.
            structure: edits that an empty skeleton needs first, `Recipe.structure()`.
            encodings: how to store weights, by key in `backbone.model.state_dict()`; all other
                tensors are stored dense.
            reasons: why a compressible weight was left dense, by key; those of keys that are not
                stored dense are dropped.
            dense_bytes: size of the dense model's safetensors file.
            dense_parameters: how many parameters the dense model has.
            dense_dtype: `float32`, or `float16` when all dense float32 tensors are rounded to it
                already, except those that it cannot hold (`fits_float16`): they stay float32.
                Loading gives float32 again.
            run: small JSON that says where it comes from: `config_hash`, `recipe`.
            most_bytes: of one file of tensors; what is larger is written to several.
        Raises:
            ValueError: `folder` exists, or a weight is NaN or infinite.
            AssertionError: an encoding does not give back its weight bit for bit, or a dense
                tensor is not exact in `dense_dtype`.
        """
        manifest = write_artifact(
            Path(folder),
            backbone,
            structure=structure,
            encodings=encodings,
            reasons=reasons,
            dense_bytes=dense_bytes,
            dense_parameters=dense_parameters,
            dense_dtype=dense_dtype,
            run=run,
            most_bytes=most_bytes,
        )
        return cls(Path(folder), manifest, backbone)

    @classmethod
    def load(cls, folder: Path, *, skeleton: Skeleton | None = None) -> Self:
        """Rebuild the model: dense, ordinary modules, float tensors, evaluation mode.

        Runs no code from the folder, and allocates nothing before sizes, shapes and checksums are
        found right.

        Args:
            skeleton: builds the dense model; called only where its code is not part of mmcompress
                (`mmcompress.backbones.custom`).
        Raises:
            ArtifactError: anything about the folder is wrong.
        """
        with collector_paused():
            manifest = read_manifest(Path(folder), skeleton)
            backbone = read_backbone(Path(folder), manifest, skeleton)
        return cls(Path(folder), manifest, backbone)

    @classmethod
    def read(cls, folder: Path, *, skeleton: Skeleton | None = None) -> Self:
        """The same checks as `load` but for decoding, without weights: enough for the ledger.

        Raises:
            ArtifactError: anything about the folder is wrong.
        """
        manifest = read_manifest(Path(folder), skeleton)
        return cls(Path(folder), manifest, read_skeleton(Path(folder), manifest, skeleton))

    @property
    def bytes(self) -> int:
        """Size: manifest and files of tensors as they lie on the disk, tokenizer not counted."""
        names = (MANIFEST_FILE, *files_of(self.manifest))
        return sum((self.folder / name).stat().st_size for name in names)

    def ledger(self) -> list[LedgerRow]:
        """Where every one of these bytes went."""
        return list_rows(self.folder, self.manifest)

    def size_summary(self) -> dict[str, Any]:
        """The artifact's size against the dense model's; see `summarize_size`."""
        return summarize_size(self.ledger(), self.manifest)


def backbone_in(folder: str) -> Backbone:
    """The model of an artifact, to start another run from: `backbone=artifact backbone.folder=…`,
    which may be the folder of that run.

    Codes and masks are plain weights again.

    Raises:
        ArtifactError: anything about the folder is wrong, or layers have been replaced, of which
            the new run's artifact would know nothing.
    """
    artifact = Artifact.load(artifact_folder(Path(folder)))
    if artifact.manifest["structure"]:
        steps = ", ".join(edit["step"] for edit in artifact.manifest["structure"])
        raise ArtifactError(
            Path(folder),
            f"holds layers that {steps} has put in place of others",
            "start from the dense model, and stack the steps in one recipe",
        )
    return artifact.backbone
