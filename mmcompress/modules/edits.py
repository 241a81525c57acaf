"""Edits: the named, versioned ways in which a compressed model differs from the dense one.

An artifact names edits and never a Python module, so that files of ours can move. An edit gives a
module of the dense model the shape that its stored weights have; it looks at nothing but the module
and the settings, which are JSON. What once was stored must be read for good: when settings come to
mean something else, the new meaning is a new version, and the old one stays in the table.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from mmcompress.modules.compensation import compensate
from mmcompress.modules.cuts import cut
from mmcompress.modules.hashed_embedding import hash_embedding
from mmcompress.modules.lowrank import factorise, factorise_qkv
from mmcompress.modules.quantized_input import quantize_input
from mmcompress.modules.shared_blocks import share_blocks, share_towers
from mmcompress.modules.tree import replace_module


@dataclass(frozen=True)
class Edit:
    """One way to change a module.

    Attributes:
        name, version: what a manifest calls it.
        carry_out: (module, **settings) → the module to put in its place, which may be itself.
    """

    name: str
    version: int
    carry_out: Callable[..., nn.Module]

    def replay(self, model: nn.Module, modules: Mapping[str, Mapping[str, Any]]) -> None:
        """Change a model whose weights are loaded afterwards, in place.

        Args:
            model: dense, or as earlier edits have left it.
            modules: settings by path.
        Raises:
            AttributeError: there is no module at a path.
            TypeError: settings are not those of the edit.
        """
        for path, settings in modules.items():
            replace_module(model, path, self.carry_out(model.get_submodule(path), **settings))


LOW_RANK = Edit("low_rank", 1, factorise)
LOW_RANK_QKV = Edit("low_rank_qkv", 1, factorise_qkv)
CUT = Edit("cut", 1, cut)
SHARED_BLOCKS = Edit("shared_blocks", 1, share_blocks)
SHARED_TOWERS = Edit("shared_towers", 1, share_towers)
HASHED_EMBEDDING = Edit("hashed_embedding", 1, hash_embedding)
QUANTIZED_INPUT = Edit("quantized_input", 1, quantize_input)
COMPENSATION = Edit("compensation", 1, compensate)

EDITS: dict[tuple[str, int], Edit] = {
    (edit.name, edit.version): edit
    for edit in (
        LOW_RANK,
        LOW_RANK_QKV,
        CUT,
        SHARED_BLOCKS,
        SHARED_TOWERS,
        HASHED_EMBEDDING,
        QUANTIZED_INPUT,
        COMPENSATION,
    )
}
"""All that a manifest may name."""
