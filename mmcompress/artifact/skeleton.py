"""The empty model that a manifest describes: the adapter's skeleton, structural edits replayed.

A manifest names adapters and edits of this package and nothing else; no other code is reached from
it.
"""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mmcompress.artifact.bounds import check_unsaved, counted
from mmcompress.artifact.spec import check_spec
from mmcompress.backbones.adapters import find_adapter
from mmcompress.backbones.base import Backbone
from mmcompress.backbones.empty import without_weights
from mmcompress.format.errors import ArtifactError, refusing
from mmcompress.format.manifest import Manifest, stored_bytes
from mmcompress.modules.edits import Edit, find_edit, replay

Skeleton = Callable[[], Backbone]
"""Builds the dense model where only the user's code can."""

OWN = "custom"
"""The adapter of models of the user's own."""

UPGRADE = "install the version of mmcompress that wrote it"


def build_skeleton(
    manifest: Manifest,
    folder: Path,
    *,
    path: Path,
    on_meta: bool,
    own: Skeleton | None = None,
) -> Backbone:
    """The backbone, its parameters and persistent buffers on the meta device.

    Args:
        manifest: checked by `parse`.
        folder: holds the assets, already checked.
        path: of the manifest, for messages.
        on_meta: the rest on the meta device too; otherwise buffers that no state dict holds, such
            as position ids, have their values.
        own: what builds a model of the user's own; it is called for those alone.
    Raises:
        ArtifactError: a name is not ours, or what it stands for refuses what the manifest gives it.
    """
    stored = stored_bytes(manifest)
    try:
        check_spec(manifest["spec"], stored)
        check_spec({edit["step"]: edit["modules"] for edit in manifest["structure"]}, stored)
    except ValueError as error:
        raise ArtifactError(path, f"is refused: {error}", "get it from who made it") from error
    adapter = _find_adapter(manifest["adapter"], path)
    edits = [_find_edit(entry, path) for entry in manifest["structure"]]
    with refusing(path, "describes a model that cannot be built", UPGRADE):
        backbone = _build_own(own, path) if manifest["adapter"] == OWN else None
        # On the meta device all is counted; the same follows for another.
        with counted(stored) if on_meta else nullcontext() as counter:
            if backbone is None:
                backbone = _build(adapter, manifest["spec"], folder, on_meta=on_meta)
            _empty(backbone.model)
            with torch.device("meta"):
                for edit, entry in zip(edits, manifest["structure"], strict=True):
                    replay(backbone.model, edit, entry["modules"])
        if counter is not None and manifest["adapter"] != OWN:
            check_unsaved(backbone.model, counter.largest)
    return backbone


def _build(adapter: type[Backbone], spec: Any, folder: Path, *, on_meta: bool) -> Backbone:
    device = torch.device("meta" if on_meta else "cpu")
    with torch.random.fork_rng(devices=[]), device, without_weights():
        return adapter.from_spec(spec, assets=folder)


def _build_own(own: Skeleton | None, path: Path) -> Backbone:
    if own is None:
        raise ArtifactError(
            path,
            "is of a model whose code is not part of mmcompress",
            "give what builds the dense one: Artifact.load(folder, skeleton=…), or backbone=… on "
            "the command line",
        )
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        return own()


def _empty(model: nn.Module) -> None:
    """Move all that a state dict holds to the meta device, ties kept."""
    moved: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
                module._parameters[name] = moved.setdefault(id(parameter), empty)
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                module._buffers[name] = buffer.to("meta")


def _find_adapter(name: str, path: Path) -> type[Backbone]:
    try:
        return find_adapter(name)
    except ValueError as error:
        raise ArtifactError(path, str(error), UPGRADE) from error


def _find_edit(entry: dict[str, Any], path: Path) -> Edit:
    try:
        return find_edit(entry["edit"], entry["version"])
    except ValueError as error:
        raise ArtifactError(path, str(error), UPGRADE) from error
