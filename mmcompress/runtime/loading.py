"""From a folder to what runs it."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mmcompress.artifact.folder import Artifact, artifact_folder
from mmcompress.backbones.base import Backbone
from mmcompress.exports.cache import exported
from mmcompress.inputs.export import is_export
from mmcompress.runtime.base import Embedder
from mmcompress.runtime.dense import DenseModel
from mmcompress.runtime.onnx import OnnxModel

RUNTIMES = ("dense", "onnx")
"""By the names that configurations, commands and `load` take."""


def check_runtime(runtime: str) -> None:
    """Refuse what is no runtime.

    Raises:
        ValueError: names those there are.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime={runtime!r} must be one of {', '.join(RUNTIMES)}")


def open_model(
    folder: Path,
    runtime: str,
    *,
    device: str | torch.device = "cpu",
    skeleton: Callable[[], Backbone] | None = None,
) -> Embedder[Tensor]:
    """What runs an artifact, or an export of one.

    Args:
        folder: of an artifact or its run; of an export, where the runtime reads one.
        runtime: of `RUNTIMES`.
        device: where `dense` runs.
        skeleton: builds the dense model, for artifacts of a model of the user's own.
    Raises:
        ValueError: no such runtime, or anything about the folder is wrong.
    """
    check_runtime(runtime)
    if runtime == "dense":
        artifact = Artifact.load(artifact_folder(folder), skeleton=skeleton)
        return DenseModel(artifact.backbone.to(device))
    if torch.device(device).type != "cpu":
        raise ValueError(f"device={device} is not for runtime={runtime}, which runs on the CPU")
    return OnnxModel(onnx_folder(folder, skeleton), rows=torch.from_numpy)


def onnx_folder(folder: Path, skeleton: Callable[[], Backbone] | None = None) -> Path:
    """The folder of an ONNX export: the one that is given, or that of an artifact, in the cache."""
    if is_export(folder):
        return folder
    return exported(Artifact.load(artifact_folder(folder), skeleton=skeleton))
