"""Cross-layer sharing: groups of transformer blocks read one set of weights.

`transform: none` is "ALBERT: A Lite BERT for Self-supervised Learning of Language
Representations", Lan et al. 2019, arXiv:1909.11942, section 3.1: the whole block is shared. The
other transforms are steps towards "MiniViT: Compressing Vision Transformers with Weight
Multiplexing", Zhang et al. 2022, arXiv:2204.07154, section 3: norms, and light transforms of the
shared weights, belong to each layer. Where we differ: MiniViT mixes the attention maps of the heads
around the softmax and puts a depth-wise convolution into the MLP; here the heads of q, k and v
are mixed, and every output channel has a scale and a bias, which needs no other attention or MLP
than the library's.

The blocks of a trained model are far from equal, so this wants training.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

from torch import Tensor, nn

from mmcompress.backbones.base import Target
from mmcompress.compression.base import LEFT_DENSE, Decision
from mmcompress.compression.statistics import Statistic
from mmcompress.compression.steps import StructureStep
from mmcompress.modules.shared import INITIALS, Initial, share_blocks

TRANSFORMS = ("none", "norms", "scale", "heads")

Shapes = dict[int, dict[str, tuple[int, ...]]]
"""Block → name of a weight inside it → shape."""


def consecutive_groups(blocks: int, every: int) -> list[list[int]]:
    """Groups of neighboring blocks, by their numbers; the last group may be smaller.

    Args:
        blocks: how many there are.
        every: blocks of a group.

    Example:
        >>> consecutive_groups(5, 2)
        [[0, 1], [2, 3], [4]]
    """
    return [list(range(start, min(start + every, blocks))) for start in range(0, blocks, every)]


def block_shapes(stack: str, weights: Mapping[str, Tensor]) -> Shapes:
    """Shapes of the weights in each block of a stack.

    Args:
        stack: path of the stack in the model.
        weights: by name; those outside the stack are passed over.
    """
    found: Shapes = {}
    for name, weight in weights.items():
        match = re.fullmatch(rf"{re.escape(stack)}\.(\d+)\.(.+)", name)
        if match:
            found.setdefault(int(match[1]), {})[match[2]] = tuple(weight.shape)
    return found


class CrossLayer(StructureStep):
    """A tower in which groups of blocks share one set of weights.

    Args:
        share_every: so many neighboring blocks form a group; null where `groups` says it. Legal:
            whole number of at least 2, or null.
        groups: lists of block numbers, from 0, each list one group; null where `share_every` says
            it. Legal: lists of whole numbers, or null.
        transform: what each block keeps for itself: nothing (`none`); its `norms`; norms, and a
            scale per channel and a bias for each linear layer (`scale`); all of this and a mixing
            of the `heads`. Legal: `none`, `norms`, `scale` or `heads`.
        initial: the shared weights start from the `mean` of the group or from its `first` block.
            Legal: `mean` or `first`.
        **selectors: `modality`, `part`, `role`, `granularity`.
    """

    edit = ("share_blocks", 1)
    granularities = ("stack",)
    search_space: ClassVar[dict[str, tuple[Any, ...]]] = {"share_every": (2, 3, 6, 12)}
    no_speedup = "shared layers are computed once in every place"

    def __init__(
        self,
        *,
        share_every: int | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        transform: Literal["none", "norms", "scale", "heads"] = "none",
        initial: Initial = "mean",
        **selectors: Any,
    ) -> None:
        super().__init__(**selectors)
        if (share_every is None) == (groups is None):
            raise ValueError("cross-layer sharing needs share_every or groups: set one of them")
        if share_every is not None and share_every < 2:
            raise ValueError(f"share_every={share_every} must be at least 2: one block shares none")
        if transform not in TRANSFORMS:
            raise ValueError(f"transform={transform!r} must be one of {', '.join(TRANSFORMS)}")
        if initial not in INITIALS:
            raise ValueError(f"initial={initial!r} must be one of {', '.join(INITIALS)}")
        blocks = [block for group in groups or [] for block in group]
        if len(set(blocks)) < len(blocks):
            raise ValueError(f"groups={groups} name a block twice: each may stand in one group")
        self.share_every = share_every
        self.groups = groups
        self.transform = transform
        self.initial: Initial = initial

    def varied(self, **changes: Any) -> Self:
        if "share_every" in changes:
            changes["groups"] = None
        return super().varied(**changes)

    def plan(
        self,
        targets: Sequence[Target],
        weights: Mapping[str, Tensor],
        statistics: Mapping[str, Statistic],
    ) -> dict[str, Decision]:
        return {t.name: self._decide(t.name, block_shapes(t.name, weights)) for t in targets}

    def _decide(self, stack: str, shapes: Shapes) -> Decision:
        blocks = max(shapes) + 1
        if self.share_every is not None:
            groups = consecutive_groups(blocks, self.share_every)
        else:
            groups = [list(group) for group in self.groups or []]
        outside = [block for group in groups for block in group if not 0 <= block < blocks]
        if outside:
            raise ValueError(
                f"groups name block {outside[0]} and {stack} has {blocks} blocks, from 0: correct "
                "groups, select one tower with modality, or use share_every"
            )
        groups = [group for group in groups if len(group) > 1]
        if not groups:
            return {LEFT_DENSE: f"no group of its {blocks} blocks has more than one"}
        for first, *others in groups:
            for other in others:
                # A block that an earlier step has shared is listed once, under its first place.
                if {first, other} <= set(shapes) and shapes[first] != shapes[other]:
                    return {LEFT_DENSE: f"blocks {first} and {other} differ in their shapes"}
        return {"groups": groups, "transform": self.transform, "initial": self.initial}

    @classmethod
    def apply(
        cls,
        module: nn.Module,
        parameter: str,
        decision: Decision,
        statistic: Statistic | None = None,
    ) -> nn.Module:
        return share_blocks(module, **decision)
