"""From a folder to what runs it."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mmcompress.artifact.folder import Artifact, artifact_folder
from mmcompress.artifact.skeleton import Skeleton
from mmcompress.backbones.base import Backbone, Prepares
from mmcompress.evaluation.base import Encode
from mmcompress.exports.cache import exported
from mmcompress.exports.inputs import write_inputs
from mmcompress.inputs.export import is_export
from mmcompress.runtime.base import Embedder
from mmcompress.runtime.dense import DenseModel
from mmcompress.runtime.deployed import Deployed
from mmcompress.runtime.exported import GRAPHS
from mmcompress.runtime.packed.load import load_packed
from mmcompress.system.extras import require_package

RUNTIMES = ("dense", "packed", "onnx", "openvino")
"""By the names that configurations, commands and `load` take."""


_IN_TORCH: dict[str, Callable[[Path, Skeleton | None], Backbone]] = {
    "dense": lambda folder, skeleton: Artifact.load(folder, skeleton=skeleton).backbone,
    "packed": lambda folder, skeleton: load_packed(folder, skeleton=skeleton).backbone,
}
"""Those that are ordinary modules of PyTorch."""


def check_runtime(runtime: str, backbone: Backbone | None = None) -> None:
    """Refuse what cannot run, before anything is compressed.

    Args:
        backbone: that an artifact will be made of.
    Raises:
        ValueError: no such runtime, its package is missing, or it cannot say how the backbone
            prepares its inputs.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r} must be one of {', '.join(RUNTIMES)}")
    if runtime in GRAPHS:
        for package in (GRAPHS[runtime].package, "onnxscript"):
            require_package(package, extra=runtime, asks=f"runtime={runtime}")
        if backbone is not None:
            with tempfile.TemporaryDirectory() as folder:
                write_inputs(backbone, Path(folder))


@dataclass(frozen=True)
class Scored:
    """A stored model, ready for evaluators.

    Attributes:
        encode: what is scored.
        prepares: what makes its inputs.
    """

    encode: Backbone | Encode
    prepares: Prepares


def to_score(folder: Path, runtime: str, *, skeleton: Skeleton | None = None) -> Scored:
    """What scores an artifact, or an export of one.

    An artifact's inputs are made by its backbone, and those of an export by what its folder says;
    an export is not written where these differ.

    Args:
        folder, runtime, skeleton: of `open_model`.
    Raises:
        ValueError: of `open_model`.
    """
    check_runtime(runtime)
    if runtime in _IN_TORCH:
        backbone = _IN_TORCH[runtime](artifact_folder(folder), skeleton)
        return Scored(backbone, backbone)
    if is_export(folder):
        deployed = Deployed(GRAPHS[runtime](folder))
        return Scored(deployed, deployed)
    artifact = Artifact.load(artifact_folder(folder), skeleton=skeleton)
    return Scored(artifact_to_score(artifact, runtime), artifact.backbone)


def artifact_to_score(artifact: Artifact, runtime: str) -> Backbone | Encode:
    """What evaluators score of an artifact that is loaded already.

    Args:
        artifact: of `Artifact.load`.
        runtime: of `RUNTIMES`.
    Raises:
        ValueError: no such runtime, or one that cannot run the artifact.
    """
    check_runtime(runtime)
    if runtime == "dense":
        return artifact.backbone
    if runtime == "packed":
        return load_packed(artifact.folder).backbone
    return Deployed(GRAPHS[runtime](exported(artifact, runtime=runtime)))


def open_model(
    folder: Path,
    runtime: str,
    *,
    device: str | torch.device = "cpu",
    skeleton: Skeleton | None = None,
) -> Embedder[Tensor]:
    """What runs an artifact, or an export of one.

    Args:
        folder: of an artifact or its run; of an export, where the runtime reads one.
        runtime: of `RUNTIMES`.
        device: where `dense` and `packed` run.
        skeleton: builds the dense model, for artifacts of a model of the user's own.
    Raises:
        ValueError: no such runtime, or anything about the folder is wrong.
    """
    check_runtime(runtime)
    if runtime == "packed":
        packed = load_packed(artifact_folder(folder), skeleton=skeleton)
        packed.backbone.to(device)
        return packed
    if runtime == "dense":
        artifact = Artifact.load(artifact_folder(folder), skeleton=skeleton)
        return DenseModel(artifact.backbone.to(device))
    if torch.device(device).type != "cpu":
        raise ValueError(f"device={device} is not for runtime={runtime}, which runs on the CPU")
    if not is_export(folder):
        artifact = Artifact.load(artifact_folder(folder), skeleton=skeleton)
        folder = exported(artifact, runtime=runtime)
    return GRAPHS[runtime](folder, rows=torch.from_numpy)
