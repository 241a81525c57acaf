"""The edits that make a compressed model out of a dense one, by name and version: an allow-list.

A manifest says `{"edit": "lowrank", "version": 1, "modules": {path: {"rank": 8}}}`, and nothing but
this table is looked into to read it. A version never changes its meaning: what a file needs to get
its shapes back stays here for good, and another meaning is another version.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmcompress.modules.compensation import compensate
from mmcompress.modules.cuts import cut
from mmcompress.modules.hashed_embedding import HashedEmbedding
from mmcompress.modules.lowrank import factorize, joint_qkv
from mmcompress.modules.quantized_input import quantize_input
from mmcompress.modules.replace import replace_module
from mmcompress.modules.shared import share_blocks, share_towers


@dataclass(frozen=True)
class Edit:
    """One way to change the shape of a module.

    Attributes:
        make: takes the module and the fields by keyword; gives what stands in its place, which may
            be the same module, edited. Weights that are on the meta device stay there.
        fields: what the file says of each module; all have to be JSON.
        optional: those that it may leave out.
    """

    make: Callable[..., nn.Module]
    fields: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def stored(self, decision: Mapping[str, Any]) -> dict[str, Any]:
        """The part of a step's decision that a file has to say."""
        return {key: decision[key] for key in (*self.fields, *self.optional) if key in decision}


EDITS: dict[tuple[str, int], Edit] = {
    ("lowrank", 1): Edit(factorize, ("rank",)),
    ("joint_qkv", 1): Edit(joint_qkv, ("rank",)),
    ("cut", 1): Edit(cut, ("kept",), optional=("of",)),
    ("share_blocks", 1): Edit(share_blocks, ("groups", "transform")),
    ("share_towers", 1): Edit(share_towers, ("stacks", "pairs", "layers", "transform")),
    ("hashed_embedding", 1): Edit(HashedEmbedding, ("buckets", "hashes", "seed")),
    ("compensation", 1): Edit(compensate, ("rank",)),
    ("quantized_input", 1): Edit(quantize_input, ("bits", "smoothing")),
}


def find_edit(name: str, version: int) -> Edit:
    """The edit of a name and version.

    Raises:
        ValueError: there is none.
    """
    found = EDITS.get((name, version))
    if found is None:
        raise ValueError(f"edit={name!r} version={version} is no edit of this mmcompress")
    return found


def replay(model: nn.Module, edit: Edit, modules: Mapping[str, Mapping[str, Any]]) -> None:
    """Carry an edit out on an empty model, in place.

    Args:
        model: what the paths start from.
        edit: of `find_edit`.
        modules: path → the edit's fields.
    Raises:
        ValueError: fields are missing, or unknown.
    """
    for path, fields in modules.items():
        if not set(edit.fields) <= fields.keys() <= {*edit.fields, *edit.optional}:
            raise ValueError(f"{path} has {sorted(fields)} where {list(edit.fields)} are expected")
        replace_module(model, path, edit.make(model.get_submodule(path), **fields))
