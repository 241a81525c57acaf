"""Weights that get one choice of a byte budget, what they take in the file, and their exchange."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mmcompress.artifact.encode import encode
from mmcompress.artifact.encoding import Encoding
from mmcompress.backbones.base import Backbone, Target
from mmcompress.compression.recipe import Recipe
from mmcompress.compression.steps import CutsWhenBaked
from mmcompress.functional.float16 import fits_float16
from mmcompress.modules.replace import replace_module

MANIFEST_BYTES = 70
"""Bytes that the manifest spends on one weight, about; the trial corrects it."""


@dataclass
class Group:
    """Weights that share one choice.

    Attributes:
        name: path of the module, or of a bare parameter.
        modality: tower.
        roles: of the weights in it.
        bytes: that each choice would store.
        losses: what each choice would cost.
        chosen: index of the choice.
    """

    name: str
    modality: str
    roles: list[str]
    bytes: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    chosen: int = -1

    def holds(self, key: str) -> bool:
        """Whether a tensor or module of that path lies inside."""
        return key == self.name or key.startswith(f"{self.name}.")


def find_groups(recipe: Recipe, backbone: Backbone) -> list[Group]:
    """The outermost modules that steps select, and the bare parameters."""
    selected: dict[str, Target] = {}
    for label, step in recipe.steps.items():
        if isinstance(step, CutsWhenBaked):
            raise ValueError(
                f"budget cannot vary step {label}, which finds only while training "
                "what each layer loses: leave the budget out and set the step's pruning_ratio"
            )
        for target in step.select(step.candidates(backbone)):
            name = target.name if target.granularity == "matrix" else target.module
            selected.setdefault(name, target)
    if "" in selected:
        raise ValueError(
            "budget cannot vary a step that works on the whole model: leave that step "
            "out, or set the budget's ratio and bytes to null"
        )
    outermost = [
        name
        for name in selected
        if not any(name != other and Group(other, "", []).holds(name) for other in selected)
    ]
    groups = [Group(name, selected[name].modality, []) for name in outermost]
    for group in groups:
        group.roles = sorted({t.role for t in backbone.targets() if group.holds(t.name)})
    return groups


def stored_bytes(
    compressed: Backbone, group: Group, encodings: Mapping[str, Encoding], dense_dtype: str
) -> int:
    """What the tensors of a group take in the file, each stored once."""
    total, seen = 0, set()
    for key, tensor in compressed.model.state_dict().items():
        if not group.holds(key) or tensor.data_ptr() in seen:
            continue
        seen.add(tensor.data_ptr())
        if key in encodings:
            _, payloads = encode(tensor, encodings[key], name=key)
            total += sum(payload.nbytes for payload in payloads.values()) + MANIFEST_BYTES
        else:
            total += _dense_bytes(tensor, dense_dtype)
    return total


@contextmanager
def swapped(probe: Backbone, source: Backbone, group: Group) -> Iterator[None]:
    """Let the group in `probe` be that of `source` for a while."""
    parent, _, name = group.name.rpartition(".")
    owner = probe.model.get_submodule(parent)
    if name in owner._parameters:
        mine = owner._parameters[name]
        owner._parameters[name] = source.model.get_submodule(parent)._parameters[name]
        try:
            yield
        finally:
            owner._parameters[name] = mine
        return
    module = probe.model.get_submodule(group.name)
    replace_module(probe.model, group.name, source.model.get_submodule(group.name))
    try:
        yield
    finally:
        replace_module(probe.model, group.name, module)


def bytes_outside(backbone: Backbone, groups: Sequence[Group], dense_dtype: str) -> int:
    """What the tensors that lie in no group take in the file, each stored once."""
    seen = {}
    for key, tensor in backbone.model.state_dict().items():
        if not any(group.holds(key) for group in groups):
            seen[tensor.data_ptr()] = _dense_bytes(tensor, dense_dtype)
    return sum(seen.values())


def _dense_bytes(tensor: Tensor, dense_dtype: str) -> int:
    halved = dense_dtype == "float16" and tensor.dtype == torch.float32
    return tensor.nbytes // 2 if halved and fits_float16(tensor) else tensor.nbytes
